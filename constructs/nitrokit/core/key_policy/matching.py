"""Matching of policy elements: actions, principals, resources, conditions. What is not understood is refused, never skipped.

Sources: IAM User Guide "IAM JSON policy elements" (Principal, NotPrincipal, Action, NotAction, Condition operators, multivalued keys).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nitrokit.errors import NitrokitError

Context = Mapping[str, "str | Sequence[str]"]


class PolicyError(NitrokitError):
    """A policy that cannot be built or evaluated."""

    area = "policy"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def wildcard(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    """IAM's patterns: ``*`` any run, ``?`` one character."""
    expression = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch(expression, value, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def matches_action(statement: Mapping[str, Any], action: str) -> bool:
    return _in_or_not(statement, "Action", lambda pattern: wildcard(pattern, action, ignore_case=True))


def matches_resource(statement: Mapping[str, Any], resource: str) -> bool:
    return _in_or_not(statement, "Resource", lambda pattern: wildcard(pattern, resource))


def _in_or_not(statement: Mapping[str, Any], element: str, match: Callable[[str], bool]) -> bool:
    negated = f"Not{element}"
    if (element in statement) == (negated in statement):
        raise PolicyError("element", f"a statement must have one of {element} and {negated}", got=sorted(statement))
    values = as_list(statement.get(element, statement.get(negated)))
    if not values or not all(isinstance(value, str) for value in values):
        raise PolicyError("element", f"{element} is not a string or a list of strings", got=repr(values)[:120])
    return any(map(match, values)) == (element in statement)


def matches_principal(element: Any, principal_arns: Iterable[str], account: str, partition: str) -> tuple[bool, bool]:
    """(named directly, named through the account): an account or its root names everybody in it, for whom IAM then decides."""
    if element == "*":
        return True, False
    if not isinstance(element, dict) or not element:
        raise PolicyError("principal", "Principal is neither * nor a map", got=repr(element)[:120])
    direct = delegated = False
    for kind, values in element.items():
        if kind not in ("AWS", "Service", "Federated", "CanonicalUser"):
            raise PolicyError("principal", "unknown kind of principal", got=kind)
        if kind == "AWS":
            names = as_list(values)
            direct = direct or "*" in names or any(arn in names for arn in principal_arns)
            delegated = delegated or account in names or f"arn:{partition}:iam::{account}:root" in names
    return direct, delegated


def matches_conditions(conditions: Any, context: Context) -> bool:
    """All operators, all keys (ANDed); the values of one key are ORed. Raises PolicyError for an operator that is not known."""
    if not isinstance(conditions, dict):
        raise PolicyError("condition", "Condition is not a map", got=type(conditions).__name__)
    folded = {key.lower(): value for key, value in context.items()}
    for operator, keys in conditions.items():
        if not isinstance(keys, dict):
            raise PolicyError("condition", f"{operator} is not a map of keys", got=type(keys).__name__)
        for key, values in keys.items():
            if not _matches_key(operator, folded.get(key.lower()), [_text(value) for value in as_list(values)]):
                return False
    return True


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    raise PolicyError("condition", "a condition value is not a string", got=type(value).__name__)


_OPERATORS: dict[str, tuple[Callable[[str, str], bool], bool]] = {
    "StringEquals": (lambda pattern, value: pattern == value, True),
    "StringEqualsIgnoreCase": (lambda pattern, value: pattern.lower() == value.lower(), True),
    "StringLike": (wildcard, True),
    "ArnEquals": (wildcard, True),
    "ArnLike": (wildcard, True),
    "StringNotEquals": (lambda pattern, value: pattern == value, False),
    "StringNotEqualsIgnoreCase": (lambda pattern, value: pattern.lower() == value.lower(), False),
    "StringNotLike": (wildcard, False),
    "ArnNotEquals": (wildcard, False),
    "ArnNotLike": (wildcard, False),
    "Bool": (lambda pattern, value: pattern.lower() == value.lower(), True),
}


def _matches_key(operator: str, value: str | Sequence[str] | None, patterns: list[str]) -> bool:
    if operator == "Null":
        wants_absent = {pattern.lower() for pattern in patterns}
        if not wants_absent <= {"true", "false"}:
            raise PolicyError("condition", "Null takes true or false", got=patterns)
        return ("true" if value is None else "false") in wants_absent
    quantifier, _, name = operator.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    if name not in _OPERATORS or quantifier not in ("", "ForAnyValue", "ForAllValues"):
        raise PolicyError(
            "operator",
            "condition operator not supported",
            got=operator,
            expected=", ".join([*_OPERATORS, "Null"]),
            do="use a supported operator: what is not understood is refused",
        )
    match, positive = _OPERATORS[name]
    if value is None:
        # An absent key: negated operators, …IfExists and ForAllValues match; all others do not.
        return if_exists or quantifier == "ForAllValues" or (not positive and quantifier == "")
    values = [value] if isinstance(value, str) else list(value)
    results = [any(match(pattern, one) for pattern in patterns) == positive for one in values]
    return all(results) if quantifier == "ForAllValues" else any(results) if quantifier == "ForAnyValue" or positive else all(results)
