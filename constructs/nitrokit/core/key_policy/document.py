"""A policy document as statements. What is not understood is refused, never skipped.

Source: IAM User Guide "IAM JSON policy elements reference" and "Grammar of the IAM JSON policy language".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.errors import NitrokitError

MAX_STATEMENTS = 1024  # ours: a key policy has at most 32 KiB
MAX_DOCUMENT = 131_072  # of the API's model (KMS PutKeyPolicy); a key policy's own limit is 32,768
_VERSIONS = ("2012-10-17", "2008-10-17")
_ELEMENTS = {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_ACTION = re.compile(r"\*(:\*)?|[a-zA-Z0-9-]+:[a-zA-Z0-9*?]+")
_PRINCIPAL_KINDS = ("AWS", "Service", "Federated", "CanonicalUser")


class PolicyError(NitrokitError):
    """A policy that cannot be built or evaluated."""

    area = "policy"


@dataclass(frozen=True)
class Condition:
    """One operator on one key: its values are ORed, conditions ANDed. ``key`` as it stands in the policy (case does not matter)."""

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Principals:
    """Who a statement is about: (kind, name) pairs; ``("AWS", "*")`` is everybody. ``negated``: everybody but these (NotPrincipal)."""

    names: tuple[tuple[str, str], ...]
    negated: bool


@dataclass(frozen=True)
class Patterns:
    """Actions or resources with wildcards; ``negated``: everything but these (NotAction, NotResource)."""

    values: tuple[str, ...]
    negated: bool


@dataclass(frozen=True)
class Statement:
    """One statement. ``name``: its Sid, or its place. ``principals``: None in an identity policy. ``variables``: whether ``${…}`` is a policy variable (since version 2012-10-17)."""

    name: str
    effect: str
    principals: Principals | None
    actions: Patterns
    resources: Patterns
    conditions: tuple[Condition, ...]
    variables: bool

    @property
    def allows(self) -> bool:
        return self.effect == "Allow"


def parse_policy(policy: str | bytes | Mapping[str, Any], *, identity: bool = False) -> tuple[Statement, ...]:
    """The statements of a key policy, or of an IAM policy of a principal (``identity``: no Principal, no Resource demanded elsewhere). Raises PolicyError."""
    document = _load(policy)
    version = document.get("Version", "2008-10-17")
    if version not in _VERSIONS:
        raise PolicyError("version", "unknown policy version", got=repr(version)[:40], expected=" or ".join(_VERSIONS))
    if unknown := set(document) - {"Version", "Id", "Statement"}:
        raise PolicyError("element", "unknown element in the policy", got=_names(unknown), expected="Version, Id, Statement")
    statements = _as_list(document.get("Statement"))
    if not 1 <= len(statements) <= MAX_STATEMENTS or statements == [None]:
        raise PolicyError("document", "a policy without a Statement", got=len(statements), expected=f"1 to {MAX_STATEMENTS}")
    return tuple(_statement(number, one, identity, version == _VERSIONS[0]) for number, one in enumerate(statements))


def _load(policy: str | bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(policy, str | bytes):
        if len(policy) > MAX_DOCUMENT:
            raise PolicyError(
                "too-large", "the policy is larger than any that AWS takes", got=len(policy), expected=f"at most {MAX_DOCUMENT}"
            )
        try:
            policy = json.loads(policy, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise PolicyError("not-json", "the policy is not JSON", got=str(error)[:200], expected="a policy document") from error
    if not isinstance(policy, Mapping):
        raise PolicyError("document", "the policy is not a JSON object", got=type(policy).__name__, expected="a policy document")
    return policy


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")  # IAM refuses it; taking the last would hide a condition
    return found


def _statement(number: int, value: Any, identity: bool, variables: bool) -> Statement:
    if not isinstance(value, Mapping) or value.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(
            "document", f"statement {number} is not an Allow or a Deny", got=repr(value)[:80], expected="an object with Effect"
        )
    if unknown := set(value) - _ELEMENTS:
        raise PolicyError("element", f"unknown element in statement {number}", got=_names(unknown), expected=", ".join(sorted(_ELEMENTS)))
    name = value.get("Sid") or f"statement {number}"
    if not isinstance(name, str):
        raise PolicyError("element", f"the Sid of statement {number} is not text", got=repr(name)[:80])
    return Statement(
        name,
        value["Effect"],
        None if identity else _principals(value, name),
        _actions(value, name),
        _patterns(value, "Resource", name),
        _conditions(value.get("Condition", {}), name),
        variables,
    )


def _either(value: Mapping[str, Any], element: str, name: str) -> tuple[Any, bool]:
    negated = f"Not{element}"
    if (element in value) == (negated in value):
        raise PolicyError(
            "element", f"{name} must have one of {element} and {negated}", got=_names(value), expected=f"{element} or {negated}"
        )
    return value.get(element, value.get(negated)), negated in value


def _patterns(value: Mapping[str, Any], element: str, name: str) -> Patterns:
    found, negated = _either(value, element, name)
    values = _as_list(found)
    if not values or not all(isinstance(one, str) and one for one in values):
        raise PolicyError("element", f"{element} in {name} is not a string or a list of strings", got=repr(found)[:120])
    return Patterns(tuple(values), negated)


def _actions(value: Mapping[str, Any], name: str) -> Patterns:
    actions = _patterns(value, "Action", name)
    for one in actions.values:
        if not _ACTION.fullmatch(one):
            raise PolicyError(
                "action",
                f"an action of {name} is not understood",
                got=one[:80],
                expected="*, or service:action, wildcards in the action alone",
            )
    return actions


def _principals(value: Mapping[str, Any], name: str) -> Principals:
    found, negated = _either(value, "Principal", name)
    if found == "*":
        return Principals((("AWS", "*"),), negated)
    if not isinstance(found, Mapping) or not found or set(found) - set(_PRINCIPAL_KINDS):
        raise PolicyError(
            "principal",
            f"the principal of {name} is not understood",
            got=repr(found)[:120],
            expected=f"* or a map of {', '.join(_PRINCIPAL_KINDS)}",
        )
    names = [(kind, one) for kind, values in found.items() for one in _as_list(values)]
    if not names or not all(isinstance(one, str) and one for _, one in names):
        raise PolicyError(
            "principal", f"a principal of {name} is not text", got=repr(found)[:120], expected="ARNs, account ids, service names"
        )
    return Principals(tuple(names), negated)


def _conditions(value: Any, name: str) -> tuple[Condition, ...]:
    if not isinstance(value, Mapping) or not all(isinstance(keys, Mapping) for keys in value.values()):
        raise PolicyError("condition", f"Condition in {name} is not a map of operators", got=repr(value)[:120])
    return tuple(
        Condition(str(operator), str(key), tuple(_text(one, name) for one in _as_list(values)))
        for operator, keys in value.items()
        for key, values in keys.items()
    )


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise PolicyError("condition", f"a condition value in {name} is not a string", got=type(value).__name__)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _names(keys: Any) -> str:
    return ", ".join(sorted(map(str, keys)))[:200]
