"""Building an EIF: the same folder, lock and kernel give the same bytes on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nitrokit._version import __version__
from nitrokit.core.eif import write_eif
from nitrokit.core.manifest import Manifest, parse_manifest
from nitrokit.core.measurements import Measurements
from nitrokit.errors import UsageError
from nitrokit.image import cpio
from nitrokit.image.files import replacing
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.lock import read_package_lock
from nitrokit.image.rootfs import application_tree, bootstrap_tree

SECTIONS = ("kernel", "cmdline", "ramdisk0", "ramdisk1")


@dataclass(frozen=True)
class BuiltImage:
    """``sections``: name (kernel, cmdline, ramdisk0, ramdisk1) → SHA-256 in hex of what is measured."""

    eif: Path
    measurements: Measurements
    sections: dict[str, str]


def read_manifest(folder: Path) -> Manifest:
    """The folder's enclave.toml. Raises UsageError, ManifestError."""
    path = folder / "enclave.toml"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "no-image",
            f"{folder} is not an image folder",
            got=str(error),
            expected="a folder with enclave.toml",
            do="name one, e.g. enclave_images/hello",
        ) from error
    return parse_manifest(text, path=str(path))


def build_image(folder: Path, *, kernel: KernelBlobs, output: Path, cache: Path, progress: Callable[[str], None]) -> BuiltImage:
    """Build ``folder`` into the EIF ``output``, which appears only when whole. Raises UsageError, ManifestError, LockError, FetchError, ImageError."""
    manifest = read_manifest(folder)
    lock = read_package_lock(folder)
    ramdisks = [cpio.write(bootstrap_tree(kernel)), cpio.write(application_tree(folder, manifest, lock, cache, progress))]
    bzimage = kernel.bzimage.read_bytes()
    with replacing(output) as file:
        measurements = write_eif(
            file, kernel=bzimage, cmdline=kernel.cmdline, ramdisks=ramdisks, metadata=_metadata(manifest), arch=manifest.arch
        )
    contents = (bzimage, kernel.cmdline.encode(), *ramdisks)
    sections = {name: hashlib.sha256(content).hexdigest() for name, content in zip(SECTIONS, contents, strict=True)}
    return BuiltImage(output, measurements, sections)


def _metadata(manifest: Manifest) -> dict[str, object]:
    """The metadata section that version 4 demands (nothing measures it). The build time is fixed, so that the file is the same too."""
    build = {
        "BuildTime": "1970-01-01T00:00:00+00:00",
        "BuildTool": "nitrokit",
        "BuildToolVersion": __version__,
        "OperatingSystem": "Linux",
        "KernelVersion": "unknown",
    }
    return {"ImageName": manifest.name, "ImageVersion": "1", "BuildMetadata": build, "DockerInfo": {}, "CustomMetadata": None}
