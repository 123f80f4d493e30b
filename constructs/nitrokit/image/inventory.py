"""All packages of an image: what its locks name, and what its root file system says is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nitrokit.core.manifest import EifFile, Manifest, Packages
from nitrokit.image import base
from nitrokit.image.build import BuiltImage, read_manifest
from nitrokit.image.contents import Installed
from nitrokit.image.lock import PACKAGES, read_package_lock
from nitrokit.image.requirements import read_requirements


def inventory(folder: Path, built: BuiltImage) -> list[Installed]:
    """Ramdisk 0's first; some twice, as a lock and a root file system name them. Raises what reading the folder's locks raises."""
    return [*_locked(folder, read_manifest(folder)), *built.installed]


def has_nitrokit(manifest: Manifest) -> bool:
    """Whether nitrokit's own init and runtime are in the image."""
    return manifest.init == "nitrokit" and not isinstance(manifest.source, EifFile)


def _locked(folder: Path, manifest: Manifest) -> Iterator[Installed]:
    """What ramdisk 0 is made of, and an image of packages: by their locks."""
    pairs: list[tuple[Path, Path | None]] = []
    if has_nitrokit(manifest):
        pairs.append((base.lock_path(manifest.arch), base.requirements_path(manifest.arch)))
    if isinstance(manifest.source, Packages):
        pairs.append((folder / PACKAGES, None if manifest.source.requirements is None else folder / manifest.source.requirements))
    for lock, requirements in pairs:
        for package in read_package_lock(lock).packages:
            yield Installed("deb", package.name, package.version, package.sha256)
        for wheel in [] if requirements is None else read_requirements(requirements):
            yield Installed("pypi", wheel.name.lower(), wheel.version)
