"""The locks that everything is compared with, and where a set of measurements stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from nitrokit.core.measurements import Measurements
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import UsageError
from nitrokit.gate.report import Comparison, Place
from nitrokit.image.build import read_manifest
from nitrokit.image.lock import MEASUREMENTS, read_lock

Pcrs = Mapping[int, bytes]
"""PCR index → value: a set, or the part of one that a policy compares (PCR0 tells the image by itself)."""


@dataclass(frozen=True)
class LockedImage:
    """An image folder's lock. ``sections``: name → SHA-256 in hex."""

    folder: Path
    name: str
    values: ReferenceValues
    sections: Mapping[str, str]

    @property
    def path(self) -> str:
        """Where a reader looks: measurements.json."""
        return str(self.folder / MEASUREMENTS)


def read_images(folders: Iterable[Path]) -> list[LockedImage]:
    """The locks of image folders, each once however often it is named. Raises UsageError (two images of one name too), LockError, MeasurementsError."""
    found: dict[str, LockedImage] = {}
    for folder in {one.resolve(): one for one in folders}.values():
        lock, name = read_lock(folder), read_manifest(folder).name
        if name in found:
            raise UsageError(
                "same-name",
                "two images have one name: nobody could tell whose lock is meant",
                got=f"{name}: {found[name].folder}, {folder}",
                do="name one of them",
            )
        found[name] = LockedImage(folder, name, lock.reference_values, lock.sections)
    return list(found.values())


class Standing(StrEnum):
    """Where a set stands in a lock."""

    CURRENT = "current"
    RETIRING = "retiring"
    PAST = "past its date"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Placed:
    """A set and where it stands: in which image's lock, and until when it is accepted."""

    pcrs: Pcrs
    standing: Standing
    image: LockedImage | None = None
    until: datetime | None = None

    def __str__(self) -> str:
        whose = f" of {self.image.name}" if self.image else ""
        date = f", retires {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        return f"{self.standing}{whose}{date}: {brief(self.pcrs)}"


def place(pcrs: Pcrs, images: Sequence[LockedImage], time: datetime) -> Placed:
    """Where a set stands in the locks at ``time``; the best place where several images have it."""
    found = [one for image in images for one in _places(pcrs, image, time)]
    order = list(Standing)
    return min(found, key=lambda one: order.index(one.standing), default=Placed(pcrs, Standing.UNKNOWN))


def _places(pcrs: Pcrs, image: LockedImage, time: datetime) -> Iterator[Placed]:
    if _is_part_of(pcrs, image.values.current):
        yield Placed(pcrs, Standing.CURRENT, image)
    for one in image.values.retiring:
        if _is_part_of(pcrs, one.measurements):
            yield Placed(pcrs, Standing.PAST if one.is_past(time) else Standing.RETIRING, image, one.retire_after)


def _is_part_of(pcrs: Pcrs, one: Measurements) -> bool:
    """Whether the PCRs that tell an image are the set's: PCR0, or PCR1 and PCR2 together."""
    return (0 in pcrs or {1, 2} <= pcrs.keys()) and all(one.pcrs().get(index) == value for index, value in pcrs.items())


def brief(pcrs: Pcrs) -> str:
    """A set for people."""
    return ", ".join(f"PCR{index} {value.hex()[:12]}…" for index, value in sorted(pcrs.items()))


def differences(pcrs: Pcrs, images: Sequence[LockedImage]) -> tuple[str, ...]:
    """Each PCR that differs from the nearest current set, with both values."""
    options = [[(index, value, pcrs.get(index)) for index, value in image.values.current.pcrs().items()] for image in images]
    differing = [[one for one in option if one[2] is not None and one[1] != one[2]] for option in options]
    nearest = min(differing, key=len, default=[])
    return tuple(f"PCR{index} locked {value.hex()} got {(got or b'').hex()}" for index, value, got in nearest)


def compare_locks(images: Iterable[LockedImage], time: datetime) -> Iterator[Comparison]:
    """What a lock says by itself: a set past its date fails, whoever still accepts it."""
    for image in images:
        past = image.values.past(time)
        for one in past:
            reason = (
                f"a set of {image.name} has been past its date since {one.retire_after:%Y-%m-%d %H:%M} UTC and still stands in the lock"
            )
            yield Comparison(
                Place.LOCK, image.name, "set-past-date", reason, image.name, (brief(one.measurements.pcrs()),), image.path, one.retire_after
            )
        if past:
            continue
        if image.values.retiring:
            last = max(one.retire_after for one in image.values.retiring)
            reason = f"{len(image.values.retiring)} older set(s) of {image.name} are accepted beside the current one, the last until {last:%Y-%m-%d %H:%M} UTC"
            details = tuple(
                f"until {one.retire_after:%Y-%m-%d %H:%M} UTC: {brief(one.measurements.pcrs())}" for one in image.values.retiring
            )
            yield Comparison(Place.LOCK, image.name, "planned-rollover", reason, image.name, details, image.path, last)
        else:
            yield Comparison(Place.LOCK, image.name, "agrees", f"{image.name} has one set, without a date", image.name, path=image.path)
