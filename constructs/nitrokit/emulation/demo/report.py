"""What the demo expected, what it got, and who was allowed what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Expectation:
    """One thing that had to hold. ``actor`` did ``what``; ``expected`` and ``got`` are short words; ``detail`` is for people."""

    actor: str
    what: str
    expected: str
    got: str
    detail: str = ""

    @property
    def held(self) -> bool:
        return self.expected == self.got


@dataclass
class Report:
    """Everything the summary shows. ``ok`` only if there are expectations and every one held."""

    image: dict[str, Any] = field(default_factory=dict)
    runner: str = ""
    stack: dict[str, str] = field(default_factory=dict)
    expectations: list[Expectation] = field(default_factory=list)
    kms_decisions: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.expectations) and all(expectation.held for expectation in self.expectations)

    def expect(self, actor: str, what: str, *, expected: str, got: str, detail: str = "") -> Expectation:
        """Record one expectation and return it."""
        expectation = Expectation(actor, what, expected, got, detail)
        self.expectations.append(expectation)
        return expectation

    def as_dict(self) -> dict[str, Any]:
        """The report as ``--json`` prints it."""
        return {
            "ok": self.ok,
            "image": self.image,
            "runner": self.runner,
            "stack": self.stack,
            "expectations": [{**vars(expectation), "held": expectation.held} for expectation in self.expectations],
            "kms_decisions": self.kms_decisions,
            "seconds": {title: round(value, 2) for title, value in self.seconds.items()},
        }
