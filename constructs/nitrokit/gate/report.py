"""What the gate found: one comparison for each thing looked at, and the verdict of them all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from nitrokit.gate.rules import RULES, Rule


class Place(StrEnum):
    """What is compared with the lock."""

    LOCK = "lock"
    REBUILD = "rebuild"
    TEMPLATE = "template"
    KEY = "key"
    HOST = "host"
    ENCLAVE = "enclave"


class Outcome(StrEnum):
    """``PLANNED``: a rollover that the lock announces, with its date. ``UNREACHABLE``: asked for, and not compared."""

    AGREES = "agrees"
    PLANNED = "planned"
    UNREACHABLE = "unreachable"
    DRIFT = "drift"


_BY_RULE = {"agrees": Outcome.AGREES, "planned-rollover": Outcome.PLANNED, "unreachable": Outcome.UNREACHABLE}


def outcome_of(rule_id: str) -> Outcome:
    """What a rule comes to."""
    return _BY_RULE.get(rule_id, Outcome.DRIFT)


_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")


def one_line(text: str) -> str:
    """A text without what moves cursors, ends lines, turns the direction of writing or cannot be encoded: hosts and policies may hold it, and every format prints it."""
    return _NOT_TEXT.sub("\ufffd", text)


@dataclass(frozen=True)
class Comparison:
    """One thing compared with the lock. ``subject``: what; ``reason``: one sentence; ``details``: what differs, line by line; ``image``: whose lock; ``path``: the file that a reader should look at;
    ``until``: the date of a planned rollover; ``evidence``: a running enclave's document, told for people.
    """

    place: Place
    subject: str
    rule_id: str
    reason: str
    image: str | None = None
    details: tuple[str, ...] = ()
    path: str | None = None
    until: datetime | None = None
    evidence: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", one_line(self.subject))
        object.__setattr__(self, "reason", one_line(self.reason))
        object.__setattr__(self, "details", tuple(map(one_line, self.details)))

    @property
    def rule(self) -> Rule:
        return RULES[self.rule_id]

    @property
    def outcome(self) -> Outcome:
        return outcome_of(self.rule_id)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "place": str(self.place),
            "subject": self.subject,
            "image": self.image,
            "outcome": str(self.outcome),
            "rule": self.rule_id,
            "reason": self.reason,
            "details": list(self.details),
            "who": self.rule.who or None,
            "fix": self.rule.fix or None,
            "path": self.path,
            "until": self.until.isoformat() if self.until else None,
            "evidence": dict(self.evidence) if self.evidence else None,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Comparison:
        """What ``as_dict`` gave."""
        until = datetime.fromisoformat(value["until"]) if value["until"] else None
        told = {name: value[name] for name in ("subject", "reason", "image", "path", "evidence")}
        return cls(Place(value["place"]), rule_id=value["rule"], details=tuple(value["details"]), until=until, **told)


@dataclass(frozen=True)
class GateReport:
    """``comparisons``: all, to be read any number of times. ``images``: name → the lock, as it stands in measurements.json. ``settled``: a rollover must be over, but for the lock that
    announces it.
    """

    time: datetime
    images: Mapping[str, Any]
    comparisons: Iterable[Comparison]
    settled: bool = False

    @cached_property
    def _kinds(self) -> Counter[tuple[Place, str]]:
        """(place, rule) → how many."""
        return Counter((one.place, one.rule_id) for one in self.comparisons)

    @property
    def verdict(self) -> str:
        """PASS, FAIL (drift), or UNREACHABLE: no drift was seen, but not all that was asked for was compared."""
        outcomes = {outcome_of(rule) for _, rule in self._kinds}
        under_way = any(outcome_of(rule) is Outcome.PLANNED and place is not Place.LOCK for place, rule in self._kinds)
        if Outcome.DRIFT in outcomes or (self.settled and under_way):
            return "FAIL"
        return "UNREACHABLE" if Outcome.UNREACHABLE in outcomes or not outcomes else "PASS"

    @property
    def exit_code(self) -> int:
        return {"PASS": 0, "FAIL": 1, "UNREACHABLE": 3}[self.verdict]

    def counts(self, place: Place | None = None) -> dict[str, int]:
        """Outcome → how many, all four named; everywhere, or at one place."""
        found = dict.fromkeys(map(str, Outcome), 0)
        for (where, rule), number in self._kinds.items():
            found[outcome_of(rule)] += number if place in (None, where) else 0
        return found

    def rules(self) -> set[str]:
        """The ids of all rules that were found."""
        return {rule for _, rule in self._kinds}

    def worst_first(self) -> Iterator[Comparison]:
        """Drift, then what was unreachable, then rollovers, then what agrees; each in the order it was found."""
        found = [Outcome(name) for name, number in self.counts().items() if number]
        for outcome in reversed(found):
            yield from (one for one in self.comparisons if one.outcome is outcome)

    def summary(self) -> dict[str, Any]:
        """Everything but the comparisons, for JSON."""
        return {"verdict": self.verdict, "time": self.time.isoformat(), "counts": self.counts(), "images": dict(self.images)}


def headline(report: GateReport) -> str:
    """The verdict in one line."""
    counts = ", ".join(f"{number} {name}" for name, number in report.counts().items() if number)
    return f"{report.verdict}  {counts or 'nothing was compared'}"


Render = Callable[[GateReport], Iterator[str]]
"""A form of the report, in pieces: a large fleet's is not held at once."""
