"""The locks of an image folder: packages.lock.json (Debian packages by hash), the requirements file (wheels by hash), image.lock.json (sections) and measurements.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nitrokit.core.measurements import Measurements, MeasurementsError
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.image.errors import LockError
from nitrokit.image.files import write_atomically

if TYPE_CHECKING:
    from nitrokit.image.build import BuiltImage

_SHA256 = re.compile(r"[0-9a-f]{64}")
_POOL_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:%/-]*")
PACKAGES, MEASUREMENTS, SECTIONS = "packages.lock.json", "measurements.json", "image.lock.json"


@dataclass(frozen=True)
class LockedPackage:
    """A Debian package: ``path`` below the archive's root."""

    name: str
    version: str
    path: str
    sha256: str


@dataclass(frozen=True)
class PackageLock:
    """What packages.lock.json says."""

    suite: str
    arch: str
    packages: tuple[LockedPackage, ...]


@dataclass(frozen=True)
class ImageLock:
    """What the image must measure, what else is accepted during a rollover, and the sections it was made of."""

    reference_values: ReferenceValues
    sections: dict[str, str]

    @property
    def measurements(self) -> Measurements:
        """The current set: what a build must give."""
        return self.reference_values.current


def read_package_lock(path: Path) -> PackageLock:
    """Raises LockError for a missing or torn file."""
    value = _read_json(path)
    try:
        packages = tuple(_package(path, one) for one in value["packages"])
        return PackageLock(str(value["suite"]), str(value["arch"]), packages)
    except (KeyError, TypeError) as error:
        raise _torn(path, repr(error)) from error


def _package(path: Path, value: dict[str, Any]) -> LockedPackage:
    """Its hash names a file in the cache and its path makes an address: neither leads anywhere else."""
    package = LockedPackage(*(str(value[key]) for key in ("name", "version", "path", "sha256")))
    if not _SHA256.fullmatch(package.sha256) or not _POOL_PATH.fullmatch(package.path) or ".." in package.path.split("/"):
        raise _torn(path, f"{package.path} with sha256 {package.sha256}"[:200])
    return package


def read_lock(folder: Path) -> ImageLock:
    """Raises LockError for a missing or torn file, MeasurementsError for measurements of another form."""
    reference_values = read_reference_values(folder)
    sections = _read_json(folder / SECTIONS).get("sections")
    if not isinstance(sections, dict) or not all(isinstance(value, str) for value in sections.values()):
        raise _torn(folder / SECTIONS, repr(sections)[:80])
    return ImageLock(reference_values, sections)


def read_reference_values(folder: Path) -> ReferenceValues:
    """measurements.json. Raises LockError for a missing or torn file, MeasurementsError for another form."""
    path = folder / MEASUREMENTS
    try:
        return ReferenceValues.parse(read_text(path))
    except MeasurementsError as error:
        error.what = f"{path}: {error.what}"
        raise


def record_measurements(folder: Path, built: BuiltImage, *, keep_old_until: datetime | None = None) -> ReferenceValues:
    """Write measurements.json and image.lock.json. Only `nitrokit lock` does so in a project; the demo in its copy.

    Sets that retire stay. ``keep_old_until``: the set that was current retires then, where the new one differs; None: it is dropped at once, and so is a file that cannot be read.
    """
    try:
        new = read_reference_values(folder).rolled_over(built.measurements, keep_old_until)
    except (LockError, MeasurementsError):
        if keep_old_until is not None:
            raise
        new = ReferenceValues(built.measurements)
    write_json(folder / SECTIONS, {"sections": built.sections})
    write_reference_values(folder, new)
    return new


def write_reference_values(folder: Path, values: ReferenceValues) -> None:
    """measurements.json, whole or not at all."""
    write_atomically(folder / MEASUREMENTS, [values.to_json().encode()])


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Canonical JSON, whole or not at all."""
    write_atomically(path, [(json.dumps(value, indent=2) + "\n").encode()])


def read_text(path: Path) -> str:
    """Raises LockError for a missing file, or one that is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise LockError(
            "missing",
            f"no {path.name} in {path.parent}",
            expected=str(path),
            do=f"run `nitrokit lock {path.parent}`, and have the result reviewed",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _torn(path, str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise _torn(path, str(error)) from error
    if not isinstance(value, dict):
        raise _torn(path, type(value).__name__)
    return value


def _torn(path: Path, got: str) -> LockError:
    return LockError(
        "torn",
        f"{path} is damaged",
        got=got,
        expected="a lock file as `nitrokit lock` writes it",
        do="restore it from version control, or run `nitrokit lock` again",
    )
