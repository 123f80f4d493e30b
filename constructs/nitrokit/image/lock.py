"""The locks of an image folder: packages.lock.json (Debian packages by hash), the requirements file (wheels by hash), image.lock.json (sections) and measurements.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nitrokit.core.measurements import Measurements
from nitrokit.image.errors import LockError
from nitrokit.image.files import write_atomically

if TYPE_CHECKING:
    from nitrokit.image.build import BuiltImage

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
    """What the image must measure, and the sections it was made of."""

    measurements: Measurements
    sections: dict[str, str]


def read_package_lock(path: Path) -> PackageLock:
    """Raises LockError for a missing or torn file."""
    value = _read_json(path)
    try:
        packages = tuple(
            LockedPackage(str(one["name"]), str(one["version"]), str(one["path"]), str(one["sha256"])) for one in value["packages"]
        )
        return PackageLock(str(value["suite"]), str(value["arch"]), packages)
    except (KeyError, TypeError) as error:
        raise _torn(path, repr(error)) from error


def read_lock(folder: Path) -> ImageLock:
    """Raises LockError for a missing or torn file, MeasurementsError for measurements of another form."""
    text = _read(folder / MEASUREMENTS)
    sections = _read_json(folder / SECTIONS).get("sections")
    if not isinstance(sections, dict) or not all(isinstance(value, str) for value in sections.values()):
        raise _torn(folder / SECTIONS, repr(sections)[:80])
    return ImageLock(Measurements.parse(text), sections)


def record_measurements(folder: Path, built: BuiltImage) -> None:
    """Write measurements.json and image.lock.json. Only `nitrokit lock` does so in a project; the demo in its copy."""
    write_json(folder / SECTIONS, {"sections": built.sections})
    write_atomically(folder / MEASUREMENTS, [built.measurements.to_json().encode()])


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Canonical JSON, whole or not at all."""
    write_atomically(path, [(json.dumps(value, indent=2) + "\n").encode()])


def _read(path: Path) -> str:
    try:
        return path.read_text()
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
        value = json.loads(_read(path))
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
