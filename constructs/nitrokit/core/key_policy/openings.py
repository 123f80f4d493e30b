"""Who may open data under a key, with which measurements, until when: what an attested Allow is written from.

Sources: KMS Developer Guide "AWS KMS condition keys for AWS Nitro Enclaves" (values are ORed within a key, keys ANDed: sets must not share a statement); IAM User Guide
"AWS global condition context keys" (``aws:CurrentTime`` is in every request).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nitrokit.core.key_policy.conditions import parse_date
from nitrokit.core.key_policy.document import PolicyError, Statement
from nitrokit.core.measurements import EMPTY_PCR2, ZERO
from nitrokit.core.reference_values import ReferenceValues

IMAGE = (0, 1, 2)
_UNTIL, _NOW = "DateLessThanEquals", "aws:CurrentTime"


@dataclass(frozen=True)
class Opening:
    """One principal with one set of measurements.

    ``principal``: an ARN, or a CDK token of one. ``pcrs``: PCR index → 96 lower-case hex digits, or a token; PCR0, PCR1 and PCR2 at least. ``retire_after``: KMS itself
    refuses the set after this second (aware, whole seconds); None: it is current. ``condition``: what else must hold.
    Raises PolicyError for zero or empty values, for PCRs that do not tell the image, and for a ``condition`` on what the set itself is compared by.
    """

    principal: str
    pcrs: Mapping[int, str]
    retire_after: datetime | None = None
    condition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(IMAGE) <= set(self.pcrs):
            raise PolicyError(
                "no-image",
                "what is compared does not tell the image: a debug-mode enclave keeps PCR3 and PCR4",
                got=", ".join(f"PCR{index}" for index in sorted(self.pcrs)),
                expected="PCR0, PCR1 and PCR2 at least",
            )
        for index, value in self.pcrs.items():
            _check(index, value)
        self._check_condition()

    def _check_condition(self) -> None:
        """One key stands once in an operator: whose value counts is not for us to choose."""
        for operator, keys in self.condition.items():
            for key in map(str.lower, keys):
                is_date = self.retire_after is not None and (operator.lower(), key) == (_UNTIL.lower(), _NOW.lower())
                if is_date or key.startswith("kms:recipientattestation:"):
                    raise PolicyError(
                        "condition-clash",
                        "the principal's own condition is on what the image's set is compared by",
                        got=f"{operator} on {key}",
                        expected="measurements and retirement dates from the lock alone",
                        do="leave it out; an earlier end can be said with DateLessThan",
                    )

    @property
    def date(self) -> str | None:
        """The date as IAM compares it."""
        return None if self.retire_after is None else self.retire_after.isoformat().replace("+00:00", "Z")

    def conditions(self) -> dict[str, Any]:
        """The Condition element."""
        merged = {operator: dict(keys) for operator, keys in self.condition.items()}
        merged.setdefault("StringEqualsIgnoreCase", {}).update({condition_key(index): value for index, value in self.pcrs.items()})
        if self.date is not None:
            merged.setdefault(_UNTIL, {})[_NOW] = self.date
        return merged


def openings(
    principal: str, values: ReferenceValues, *, pcr3: str | None = None, condition: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Opening]:
    """All sets of a lock for one principal, each with its date. ``pcr3``: of the parent's role, in hex or a token. Raises PolicyError."""
    more = {} if pcr3 is None else {3: pcr3}
    dated = [(values.current, None), *((one.measurements, one.retire_after) for one in values.retiring)]
    return [
        Opening(principal, {index: value.hex() for index, value in one.pcrs().items()} | more, date, condition or {}) for one, date in dated
    ]


def retires(statement: Statement) -> datetime | None:
    """Until when a statement of any policy holds, that second included; None: for ever. Of several dates the earliest. IAM takes a date without a zone for UTC."""
    dates = [
        date - timedelta(seconds=condition.operator == "DateLessThan")
        for condition in statement.conditions
        if condition.key.lower() == "aws:currenttime" and condition.operator in ("DateLessThan", "DateLessThanEquals")
        for date in [max(filter(None, map(_date, condition.values)), default=None)]
        if date is not None
    ]
    return min(dates, default=None)


def _date(text: str) -> datetime | None:
    try:
        return parse_date(text)
    except ValueError:
        return None


def condition_key(index: int) -> str:
    """The condition key of a PCR; PCR0 by its other name."""
    return "kms:RecipientAttestation:ImageSha384" if index == 0 else f"kms:RecipientAttestation:PCR{index}"


def common_pcrs(found: Sequence[Opening]) -> list[int]:
    """The PCRs that every opening compares: those that a Deny may demand of everybody."""
    return sorted(set.intersection(*(set(one.pcrs) for one in found)))


def _check(index: int, value: str) -> None:
    if value == ZERO.hex():
        raise PolicyError(
            "zero-pcr",
            f"a zero PCR{index} would let any debug-mode enclave, any unsigned image or any parent without a role open data",
            expected="a measured value",
            do="build the image and use its lock",
        )
    if index == 2 and value == EMPTY_PCR2.hex():
        raise PolicyError(
            "empty-pcr2",
            "PCR2 is the measurement of nothing: every image with one ramdisk has it",
            got=value,
            expected="the measurement of an application ramdisk",
        )
