"""Evaluation of a key policy, as KMS does it: an explicit Deny wins, then an Allow, else no. Source: IAM User Guide "Policy evaluation logic", KMS Developer Guide "Key policies"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nitrokit.core.key_policy.matching import (
    Context,
    PolicyError,
    as_list,
    matches_action,
    matches_conditions,
    matches_principal,
    matches_resource,
)

_ELEMENTS = {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}


@dataclass(frozen=True)
class AccessRequest:
    """Who asks for what. ``principal_arn``: of the user or role; ``session_arn``: of the assumed-role session, where there is one. ``context``: condition key → value."""

    action: str
    principal_arn: str
    account: str
    resource: str = "*"
    context: Context = field(default_factory=dict)
    session_arn: str | None = None
    partition: str = "aws"

    @property
    def arns(self) -> list[str]:
        return [arn for arn in (self.principal_arn, self.session_arn) if arn]


@dataclass(frozen=True)
class Decision:
    """``statement``: the Sid (or number) that decided. ``delegated_to_iam``: the key policy leaves it to the account's IAM policies; ``allowed`` is False until those say yes."""

    allowed: bool
    reason: str
    statement: str | None = None
    delegated_to_iam: bool = False


def evaluate(policy: Mapping[str, Any], request: AccessRequest) -> Decision:
    """Evaluate a key policy. Raises PolicyError for what is not understood; the caller must then refuse."""
    allowing: str | None = None
    delegating: str | None = None
    for name, statement in _statements(policy):
        direct, delegated = _principal(statement, request)
        if not (direct or delegated) or not _rest_matches(statement, request):
            continue
        if statement["Effect"] == "Deny":
            return Decision(False, "explicit deny", name)
        allowing = allowing or (name if direct else None)
        delegating = delegating or (name if delegated else None)
    if allowing:
        return Decision(True, "allowed", allowing)
    if delegating:
        return Decision(False, "left to IAM policies", delegating, delegated_to_iam=True)
    return Decision(False, "no statement allows it")


def evaluate_identity(policies: Sequence[Mapping[str, Any]], request: AccessRequest) -> Decision:
    """Evaluate a principal's own IAM policies. Raises PolicyError."""
    allowing: str | None = None
    for policy in policies:
        for name, statement in _statements(policy):
            if _rest_matches(statement, request):
                if statement["Effect"] == "Deny":
                    return Decision(False, "explicit deny in an identity policy", name)
                allowing = allowing or name
    return Decision(True, "allowed by an identity policy", allowing) if allowing else Decision(False, "no identity policy allows it")


def _statements(policy: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(policy, Mapping) or "Statement" not in policy:
        raise PolicyError("document", "a policy without Statement", got=type(policy).__name__)
    found = []
    for number, statement in enumerate(as_list(policy["Statement"])):
        if not isinstance(statement, dict) or statement.get("Effect") not in ("Allow", "Deny"):
            raise PolicyError("document", f"statement {number} is not an Allow or a Deny")
        if unknown := set(statement) - _ELEMENTS:
            raise PolicyError("element", "unknown element in a statement", got=sorted(unknown))
        found.append((str(statement.get("Sid") or f"statement {number}"), statement))
    return found


def _principal(statement: Mapping[str, Any], request: AccessRequest) -> tuple[bool, bool]:
    if ("Principal" in statement) == ("NotPrincipal" in statement):
        raise PolicyError("principal", "a key policy's statement must have one of Principal and NotPrincipal")
    if "Principal" in statement:
        direct, delegated = matches_principal(statement["Principal"], request.arns, request.account, request.partition)
        # A Deny that names the account denies everybody in it.
        return (direct or delegated, False) if statement["Effect"] == "Deny" else (direct, delegated)
    named = any(matches_principal(statement["NotPrincipal"], request.arns, request.account, request.partition))
    return not named, False


def _rest_matches(statement: Mapping[str, Any], request: AccessRequest) -> bool:
    return (
        matches_action(statement, request.action)
        and matches_resource(statement, request.resource)
        and matches_conditions(statement.get("Condition", {}), request.context)
    )
