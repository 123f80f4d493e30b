"""Key policies: which sets of measurements they accept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nitrokit.core.key_policy import ATTESTED_ACTIONS, Statement, parse_policy
from nitrokit.core.key_policy.patterns import matches
from nitrokit.gate.locks import Pcrs

_KEY = re.compile(r"kms:recipientattestation:(imagesha384|pcr([0-9]+))")
_IMAGE_PCRS = (0, 1, 2, 8)
_VALUE = re.compile(r"[0-9a-f]{96}")
_EQUAL = ("stringequals", "stringequalsignorecase")


class UnreadablePolicy(ValueError):
    """An attested statement that is not one set of measurements; the message says which and why."""


def accepted_sets(policy: str | Mapping[str, Any]) -> list[Pcrs]:
    """The sets for which a policy opens data, each once. Raises PolicyError for what is no policy, UnreadablePolicy for attested statements of another form."""
    found: list[Pcrs] = []
    for statement in parse_policy(policy):
        if statement.allows and _opens(statement) and (pcrs := _set(statement)) and pcrs not in found:
            found.append(pcrs)
    return found


def _opens(statement: Statement) -> bool:
    fitting = any(matches(pattern, action, ignore_case=True) for pattern in statement.actions.values for action in ATTESTED_ACTIONS)
    return fitting != statement.actions.negated


def _set(statement: Statement) -> Pcrs:
    """The image's PCRs that a statement demands; empty where it demands none (then the findings tell)."""
    pcrs: dict[int, bytes] = {}
    for condition in statement.conditions:
        key = _KEY.fullmatch(condition.key.lower())
        index = int(key[2] or 0) if key else None
        if index not in _IMAGE_PCRS:
            continue
        value = condition.values[0].lower() if len(condition.values) == 1 else ""
        if condition.operator.lower() not in _EQUAL or not _VALUE.fullmatch(value):
            raise UnreadablePolicy(f"{statement.name}: {condition.operator} on {condition.key} with {len(condition.values)} value(s)")
        if pcrs.setdefault(index, bytes.fromhex(value)).hex() != value:
            raise UnreadablePolicy(f"{statement.name}: two values for PCR{index}")
    return pcrs
