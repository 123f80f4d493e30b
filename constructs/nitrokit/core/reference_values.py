"""Reference values: the measurements that are accepted now, and those that still are until a date.

RFC 9334 calls reference values what evidence is compared with. The file is ``measurements.json``: ``nitro-cli build-enclave``'s output, which any tool may go on reading for the current
set, and beside it, during a rollover, ``"Retiring": [{"Measurements": {…}, "RetireAfter": "2026-12-31T00:00:00Z"}]``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nitrokit.core.measurements import Measurements, MeasurementsError, load_json

_FIELDS = {"Measurements", "RetireAfter"}
_RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


@dataclass(frozen=True)
class RetiringSet:
    """A set that is accepted up to ``retire_after``, that second included: aware, whole seconds; kept in UTC. Raises MeasurementsError."""

    measurements: Measurements
    retire_after: datetime

    def __post_init__(self) -> None:
        if self.retire_after.tzinfo is None or self.retire_after.microsecond:
            raise _date_error(self.retire_after.isoformat())
        object.__setattr__(self, "retire_after", self.retire_after.astimezone(UTC))

    def is_past(self, time: datetime) -> bool:
        """Whether its date lies behind ``time`` (aware)."""
        return time > self.retire_after

    def as_object(self) -> dict[str, Any]:
        """As it stands in ``measurements.json``."""
        return {**self.measurements.as_object(), "RetireAfter": self.retire_after.isoformat().replace("+00:00", "Z")}


@dataclass(frozen=True)
class ReferenceValues:
    """What an image's lock accepts. A set stands in it once. Raises MeasurementsError (``measurements/twice``)."""

    current: Measurements
    retiring: tuple[RetiringSet, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.sets())) != 1 + len(self.retiring):
            raise MeasurementsError(
                "twice", "a set of measurements stands twice in one lock", expected="each set once", do="remove it from Retiring"
            )

    def sets(self) -> tuple[Measurements, ...]:
        """All sets, the current one first, whatever their dates."""
        return (self.current, *(one.measurements for one in self.retiring))

    def accepted_at(self, time: datetime) -> tuple[Measurements, ...]:
        """The sets that are accepted at ``time`` (aware): the current one, and those whose date has not passed."""
        return (self.current, *(one.measurements for one in self.retiring if not one.is_past(time)))

    def past(self, time: datetime) -> tuple[RetiringSet, ...]:
        """The sets whose date has passed at ``time`` (aware): nothing should accept them any more."""
        return tuple(one for one in self.retiring if one.is_past(time))

    def rolled_over(self, new: Measurements, keep_old_until: datetime | None = None) -> ReferenceValues:
        """``new`` is current; the set that was is kept until the date, or dropped at once where there is none. A retiring set that comes back is current alone.

        Where ``new`` is current already, the set that began to retire last gets the date.
        """
        kept = [one for one in self.retiring if one.measurements != new]
        if keep_old_until is not None:
            old = self.current if new != self.current else kept.pop().measurements if kept else None
            kept += [] if old is None else [RetiringSet(old, keep_old_until)]
        return ReferenceValues(new, tuple(kept))

    def without(self, retired: tuple[RetiringSet, ...]) -> ReferenceValues:
        """The same without these."""
        return ReferenceValues(self.current, tuple(one for one in self.retiring if one not in retired))

    def to_json(self) -> str:
        """``measurements.json``, canonical, with a final newline; without a rollover exactly what ``Measurements.to_json`` gives."""
        retiring = {"Retiring": [one.as_object() for one in self.retiring]} if self.retiring else {}
        return json.dumps({**self.current.as_object(), **retiring}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str | bytes) -> ReferenceValues:
        """Read ``measurements.json``: the current set as leniently as ``Measurements.parse`` does, ``Retiring`` strictly. Raises MeasurementsError."""
        value = load_json(text)
        current = Measurements.from_object(value)
        retiring = value.get("Retiring", []) if isinstance(value, dict) else []
        if not isinstance(retiring, list):
            raise _retiring_error(retiring)
        return cls(current, tuple(map(_retiring, retiring)))


def _retiring(value: object) -> RetiringSet:
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise _retiring_error(value)
    return RetiringSet(Measurements.from_object({"Measurements": value["Measurements"]}), _date(value["RetireAfter"]))


def _date(text: object) -> datetime:
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise _date_error(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise _date_error(text) from error


def _date_error(got: object) -> MeasurementsError:
    return MeasurementsError("retire-after", "not a date at which a set retires", got=repr(got)[:80], expected="YYYY-MM-DDTHH:MM:SSZ")


def _retiring_error(got: object) -> MeasurementsError:
    return MeasurementsError(
        "retiring",
        "Retiring is not a list of sets with their dates",
        got=repr(got)[:120],
        expected='[{"Measurements": {…}, "RetireAfter": "YYYY-MM-DDTHH:MM:SSZ"}]',
        do="let `nitrokit lock --keep-old-until` write it",
    )
