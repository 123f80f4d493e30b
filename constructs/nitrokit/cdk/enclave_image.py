"""EnclaveImage: what runs in an enclave, where its host gets it, and the measurements that everything else derives from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from nitrokit.cdk.known import is_token, need, need_each, need_known, need_type
from nitrokit.core import boot
from nitrokit.core.eif import read_eif
from nitrokit.core.hugepages import enclave_memory
from nitrokit.core.manifest import Egress
from nitrokit.core.manifest.model import ARCHITECTURES
from nitrokit.core.measurements import Measurements
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import NitrokitError, UsageError
from nitrokit.host.config import S3_KEY, WORD, check_name
from nitrokit.image.build import read_manifest
from nitrokit.image.cached import build_cached
from nitrokit.image.explain import explain
from nitrokit.image.fetch import cache_dir
from nitrokit.image.files import sha256_of
from nitrokit.image.kernel import kernel_for
from nitrokit.image.lock import read_lock


class ImageDriftError(NitrokitError):
    """An image that does not measure as its lock says: nothing is synthesised."""

    area = "drift"


@dataclass(frozen=True)
class EifObject:
    """An EIF in S3. ``sha256``: of the whole file, in hex; ``version``: the object's, where the bucket keeps versions."""

    bucket: s3.IBucket
    key: str
    sha256: str
    version: str | None = None

    def __post_init__(self) -> None:
        """Raises TypeError for a bucket's name in place of a bucket, ValueError for another digest, and for a key or version that the host agent would refuse."""
        need(s3.IBucket, bucket=self.bucket)
        need(str, key=self.key, sha256=self.sha256)
        if not is_token(self.sha256) and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r:.80}; expected 64 lower-case hex digits, as sha256sum prints them")
        need_type(str, version=self.version)
        # As the agent checks it on the host.
        if not is_token(self.key) and not S3_KEY.fullmatch(self.key):
            raise ValueError(
                f"key is {self.key!r:.160}; expected 1 to 900 of ASCII's letters, digits and _!.*'()/-, with a letter or digit first"
            )
        if not is_token(self.version) and not WORD.fullmatch(self.version or ""):
            raise ValueError(f"version is {self.version!r:.80}; expected the id of an object's version, as S3 tells it")


_SHA256 = re.compile("[0-9a-f]{64}")
Source = EifObject | ecr_assets.DockerImageAsset


class EnclaveImage(Construct):
    """An enclave image. Use ``from_directory``, ``from_eif``, ``from_measurements`` or ``from_docker_image``.

    - ``name``: of the enclave on its host, unique there.
    - ``measurements``: one set, or a whole lock.
    - ``arch``: "x86_64" or "aarch64", as in enclave.toml. ``cpu_count``, ``memory_mib``: what one enclave of it needs. ``egress``: where it may talk to; default nowhere.
    - ``controlled``: whether its init is nitrokit's, which tells health and attests on request; default True. Of another one the host knows only that it runs.
    - ``source``: where its host gets it; None: from nowhere (somebody else runs it).

    ``reference_values``: the lock, with what retires in a rollover; ``measurements``: its current set.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        name: str,
        measurements: Measurements | ReferenceValues,
        arch: str,
        cpu_count: int,
        memory_mib: int,
        egress: Sequence[Egress] = (),
        source: Source | None = None,
        controlled: bool = True,
    ) -> None:
        super().__init__(scope, id)
        need_known(name=name, arch=arch, cpu_count=cpu_count, memory_mib=memory_mib)
        _check(name, measurements, arch, cpu_count)
        need_each(Egress, egress=egress)
        need(bool, controlled=controlled)
        need_type((EifObject, ecr_assets.DockerImageAsset), eif=source)
        self.controlled = controlled
        self.name = name
        self.reference_values = _lock_of(measurements)
        self.arch = arch
        self.cpu_count = cpu_count
        self.memory_mib = memory_mib
        self.egress = tuple(egress)
        self.source = source

    @property
    def measurements(self) -> Measurements:
        """The lock's current set."""
        return self.reference_values.current

    @classmethod
    def from_directory(cls, scope: Construct, id: str, directory: str | Path) -> EnclaveImage:
        """Build an image folder at synthesis (without Docker; cached by content) and compare it with its lock. Raises ImageDriftError and what the build raises."""
        folder = Path(directory).resolve()
        cache = cache_dir(os.environ)
        manifest = read_manifest(folder)
        kernel = kernel_for(manifest, os.environ, cache, _quiet, folder.parent / "kernel")
        lock = read_lock(folder)
        built, digest = build_cached(folder, kernel=kernel, cache=cache, progress=_quiet)
        if differences := explain(lock, built):
            raise ImageDriftError(
                "image",
                f"{folder.name} does not measure as its lock says",
                got="; ".join(differences),
                expected=str(folder / "measurements.json"),
                do="if the change is meant, run `nitrokit lock --measurements-only` and have the new lock reviewed",
            )
        return cls._of_eif(
            scope,
            id,
            built.eif,
            digest,
            name=manifest.name,
            measurements=lock.reference_values,
            arch=manifest.arch,
            cpu_count=manifest.cpu_count,
            memory_mib=manifest.memory_mib,
            egress=manifest.egress,
            controlled=manifest.init == "nitrokit",
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
        egress: Sequence[Egress] = (),
        controlled: bool = True,
    ) -> EnclaveImage:
        """An EIF built elsewhere: it is measured here, and must be what ``measurements`` says is current. ``memory_mib`` None: four times the EIF. ``controlled`` False: its init is not
        nitrokit's. Raises EifError, BootError, ImageDriftError.
        """
        path = Path(eif)
        need((Measurements, ReferenceValues), measurements=measurements)
        if not path.is_file():
            raise UsageError(
                "no-eif", "there is no such EIF", got=str(path), expected="a file", do="build it: `nitrokit build IMAGE -o FILE`"
            )
        with path.open("rb") as file:
            read = read_eif(file)
            boot.require_real(read.cmdline)
        if differing := _lock_of(measurements).current.differences(read.measurements):
            raise ImageDriftError(
                "image", f"{path.name} does not measure as given", got="; ".join(map(str, differing)), expected="the given measurements"
            )
        return cls._of_eif(
            scope,
            id,
            path,
            sha256_of(path),
            name=name,
            measurements=measurements,
            arch=read.arch,
            cpu_count=cpu_count,
            memory_mib=memory_mib,
            egress=egress,
            controlled=controlled,
        )

    @classmethod
    def from_measurements(
        cls,
        scope: Construct,
        id: str,
        *,
        name: str,
        measurements: Measurements | ReferenceValues,
        memory_mib: int,
        arch: str = "x86_64",
        cpu_count: int = 2,
        egress: Sequence[Egress] = (),
        eif: EifObject | None = None,
        controlled: bool = True,
    ) -> EnclaveImage:
        """An image that is not here: keys and monitors derive from its lock. ``eif``: where a host finds it, and checks it against the lock; None: no host of this app can run it.
        ``controlled`` False: its init is not nitrokit's.
        """
        return cls(
            scope,
            id,
            name=name,
            measurements=measurements,
            arch=arch,
            cpu_count=cpu_count,
            memory_mib=_memory(0, memory_mib),
            egress=egress,
            source=eif,
            controlled=controlled,
        )

    @classmethod
    def from_docker_image(
        cls,
        scope: Construct,
        id: str,
        image: ecr_assets.DockerImageAsset,
        *,
        name: str,
        measurements: Measurements | ReferenceValues,
        memory_mib: int,
        arch: str = "x86_64",
        cpu_count: int = 2,
        egress: Sequence[Egress] = (),
    ) -> EnclaveImage:
        """A Docker image in ECR, from which each host builds the EIF with nitro-cli, and runs it only when it measures as ``measurements`` says.

        Docker's builds are rarely the same twice, so pin the base and push once. ``memory_mib``: at least four times the EIF.
        """
        return cls(
            scope,
            id,
            name=name,
            measurements=measurements,
            arch=arch,
            cpu_count=cpu_count,
            memory_mib=_memory(0, memory_mib),
            egress=egress,
            source=image,
            controlled=False,
        )

    @classmethod
    def _of_eif(
        cls,
        scope: Construct,
        id: str,
        eif: Path,
        digest: str,
        *,
        name: str,
        measurements: Measurements | ReferenceValues,
        arch: str,
        cpu_count: int,
        memory_mib: int | None,
        egress: Sequence[Egress],
        controlled: bool,
    ) -> EnclaveImage:
        """The EIF goes to S3 as an asset of the image. ``digest``: its SHA-256, so that the CDK does not read it all once more."""
        image = cls(
            scope,
            id,
            name=name,
            measurements=measurements,
            arch=arch,
            cpu_count=cpu_count,
            memory_mib=_memory(eif.stat().st_size, memory_mib),
            egress=egress,
            controlled=controlled,
        )
        asset = s3_assets.Asset(image, "Eif", path=str(eif), asset_hash=digest)
        image.source = EifObject(asset.bucket, asset.s3_object_key, digest)
        return image

    def host_config(self) -> dict[str, str]:
        """What the host agent is told of where the image comes from. Raises ImageDriftError for an image that is nowhere."""
        if isinstance(self.source, EifObject):
            uri = self.source.bucket.s3_url_for_object(self.source.key)
            return {"image_uri": uri, "image_version": self.source.version or "", "image_sha256": self.source.sha256}
        if self.source is not None:
            return {"docker_uri": self.source.image_uri}
        raise ImageDriftError(
            "no-source", f"{self.name} is measurements alone: a host cannot fetch it", expected="an EIF", do="give from_measurements(eif=…)"
        )

    def grant_read(self, grantee: iam.IGrantable) -> None:
        """Let a host fetch the image, and nothing else of its bucket or repository."""
        if isinstance(self.source, EifObject):
            grant_object(grantee, self.source.bucket, self.source.key, *(["s3:GetObjectVersion"] if self.source.version else []))
        elif self.source is not None:
            self.source.repository.grant_pull(grantee)


def grant_object(grantee: iam.IGrantable, bucket: s3.IBucket, key: str, *actions: str) -> None:
    """Let a host fetch one object, also of a bucket with a key of its own, where the bucket or the stack's synthesizer tells it."""
    iam.Grant.add_to_principal(grantee=grantee, actions=["s3:GetObject", *actions], resource_arns=[bucket.arn_for_objects(key)])
    if bucket.encryption_key is not None:
        bucket.encryption_key.grant_decrypt(grantee)


def _lock_of(measurements: Measurements | ReferenceValues) -> ReferenceValues:
    return measurements if isinstance(measurements, ReferenceValues) else ReferenceValues(measurements)


def _check(name: str, measurements: object, arch: str, cpu_count: int) -> None:
    """As enclave.toml is checked."""
    check_name(name)
    need((Measurements, ReferenceValues), measurements=measurements)
    need(int, cpu_count=cpu_count)
    if arch not in ARCHITECTURES:
        raise UsageError("arch", f"{name} is for no architecture of enclaves", got=arch, expected=" or ".join(ARCHITECTURES))
    if cpu_count < 1:
        raise UsageError("cpus", f"{name} needs a vCPU", got=cpu_count, expected="1 or more", do="leave cpu_count out for two")


def _memory(eif_bytes: int, memory_mib: int | None) -> int:
    need_known(memory_mib=memory_mib)
    need_type(int, memory_mib=memory_mib)
    return enclave_memory(eif_bytes, memory_mib)


def _quiet(_: str) -> None:
    """Synthesis prints nothing of a build."""
