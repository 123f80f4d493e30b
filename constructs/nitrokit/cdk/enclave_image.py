"""EnclaveImage: an EIF as an S3 asset, with the measurements that everything else derives from."""

from __future__ import annotations

import os
from pathlib import Path

from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from nitrokit.core.eif import read_eif
from nitrokit.core.hugepages import enclave_memory
from nitrokit.core.manifest import Egress
from nitrokit.core.measurements import Measurements
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import NitrokitError
from nitrokit.image.build import read_manifest
from nitrokit.image.cached import build_cached
from nitrokit.image.explain import explain
from nitrokit.image.fetch import cache_dir
from nitrokit.image.kernel import kernel_for
from nitrokit.image.lock import read_lock


class ImageDriftError(NitrokitError):
    """An image that does not measure as its lock says: nothing is synthesised."""

    area = "drift"


class EnclaveImage(Construct):
    """An enclave image. Use ``from_directory`` or ``from_eif``.

    ``reference_values``: the lock, with what retires in a rollover; ``measurements``: its current set; ``asset``: the EIF in S3; ``cpu_count`` and ``memory_mib``: what one enclave of it needs.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        eif: Path,
        measurements: Measurements | ReferenceValues,
        name: str,
        cpu_count: int = 2,
        memory_mib: int | None = None,
        egress: tuple[Egress, ...] = (),
    ) -> None:
        super().__init__(scope, id)
        self.name = name
        self.eif = eif
        self.reference_values = _lock_of(measurements)
        self.cpu_count = cpu_count
        self.memory_mib = enclave_memory(eif.stat().st_size, memory_mib)
        self.egress = egress
        self.asset = s3_assets.Asset(self, "Eif", path=str(eif))

    @property
    def measurements(self) -> Measurements:
        """What the EIF measures: the lock's current set."""
        return self.reference_values.current

    @classmethod
    def from_directory(cls, scope: Construct, id: str, directory: str | Path) -> EnclaveImage:
        """Build an image folder at synthesis (without Docker; cached by content) and compare it with its lock. Raises ImageDriftError and what the build raises."""
        folder = Path(directory).resolve()
        cache = cache_dir(os.environ)
        manifest = read_manifest(folder)
        kernel = kernel_for(manifest, os.environ, cache, _quiet, folder.parent / "kernel")
        lock = read_lock(folder)
        built = build_cached(folder, kernel=kernel, cache=cache, progress=_quiet)
        if differences := explain(lock, built):
            raise ImageDriftError(
                "image",
                f"{folder.name} does not measure as its lock says",
                got="; ".join(differences),
                expected=str(folder / "measurements.json"),
                do="if the change is meant, run `nitrokit lock --measurements-only` and have the new lock reviewed",
            )
        return cls(
            scope,
            id,
            eif=built.eif,
            measurements=lock.reference_values,
            name=manifest.name,
            cpu_count=manifest.cpu_count,
            memory_mib=manifest.memory_mib,
            egress=manifest.egress,
        )

    @classmethod
    def from_eif(
        cls,
        scope: Construct,
        id: str,
        eif: str | Path,
        *,
        name: str,
        measurements: Measurements | ReferenceValues,
        cpu_count: int = 2,
        memory_mib: int | None = None,
    ) -> EnclaveImage:
        """An EIF built elsewhere. It is measured here and must be what ``measurements``, one set or a whole lock, says is current. Raises EifError, ImageDriftError."""
        path = Path(eif)
        with path.open("rb") as file:
            differing = _lock_of(measurements).current.differences(read_eif(file).measurements)
        if differing:
            raise ImageDriftError(
                "image", f"{path.name} does not measure as given", got="; ".join(map(str, differing)), expected="the given measurements"
            )
        return cls(scope, id, eif=path, measurements=measurements, name=name, cpu_count=cpu_count, memory_mib=memory_mib)


def _lock_of(measurements: Measurements | ReferenceValues) -> ReferenceValues:
    return measurements if isinstance(measurements, ReferenceValues) else ReferenceValues(measurements)


def _quiet(_: str) -> None:
    """Synthesis prints nothing of a build."""
