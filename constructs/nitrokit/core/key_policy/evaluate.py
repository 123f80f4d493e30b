"""Evaluation of policies as KMS does it: an explicit Deny wins, then an Allow, else no.

Sources: IAM User Guide "Policy evaluation logic", "AWS JSON policy elements: Principal" and "NotPrincipal"; KMS Developer Guide "Key policies".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nitrokit.core.key_policy.conditions import Context, every, holds, negate, resolver, some
from nitrokit.core.key_policy.document import Patterns, Principals, Statement, parse_policy
from nitrokit.core.key_policy.patterns import Resolve, Unknown, matches

ATTESTATION_PREFIX = "kms:recipientattestation:"
Policy = str | bytes | Mapping[str, Any] | Sequence[Statement]


@dataclass(frozen=True)
class AccessRequest:
    """Who asks for what.

    ``principal_arn``: of the user or role, or a service's name with ``kind`` "Service"; ``session_arn``: of the assumed-role session, where there is one; ``account``: the
    principal's. ``context``: condition key → value. ``open``: keys that the context does not name are unknown, but for attestation: for reasoning about who could pass.
    """

    action: str
    principal_arn: str
    account: str
    resource: str | Unknown = "*"
    context: Context = field(default_factory=dict)
    session_arn: str | None = None
    partition: str = "aws"
    kind: str = "AWS"
    open: bool = False

    @property
    def arns(self) -> list[str]:
        return [arn for arn in (self.principal_arn, self.session_arn) if arn]

    def values(self, key: str) -> Sequence[str] | Unknown | None:
        """A condition key's values, whatever the case of its name; None where it is absent."""
        folded = key.lower()
        for name, value in self.context.items():
            if name.lower() == folded:
                return [value] if isinstance(value, str) else value  # unknown, in an analysis
        return Unknown.UNKNOWN if self.open and not folded.startswith(ATTESTATION_PREFIX.rstrip(":")) else None


@dataclass(frozen=True)
class Decision:
    """``statement``: the Sid (or place) that decided. ``delegated_to_iam``: the key policy leaves it to the account's IAM policies; ``allowed`` is False until those say yes."""

    allowed: bool
    reason: str
    statement: str | None = None
    delegated_to_iam: bool = False


def evaluate(policy: Policy, request: AccessRequest) -> Decision:
    """What a key policy says by itself. Raises PolicyError for what is not understood; the caller must then refuse."""
    allowing: str | None = None
    delegating: str | None = None
    for statement in _statements(policy, identity=False):
        direct, delegated = matching(statement, request)
        if not statement.allows:
            if some((direct, delegated)) is not False:  # where the guide leaves it open whether a Deny holds, it does
                return Decision(False, "explicit deny", statement.name)
        elif direct:
            allowing = allowing or statement.name
        elif delegated:
            delegating = delegating or statement.name
    if allowing:
        return Decision(True, "allowed", allowing)
    if delegating:
        return Decision(False, "left to IAM policies", delegating, delegated_to_iam=True)
    return Decision(False, "no statement allows it")


def evaluate_identity(policies: Sequence[Policy], request: AccessRequest) -> Decision:
    """What a principal's own IAM policies say. Raises PolicyError."""
    allowing: str | None = None
    for policy in policies:
        for statement in _statements(policy, identity=True):
            answer = _rest(statement, request)
            if answer is not False and not statement.allows:
                return Decision(False, "explicit deny in an identity policy", statement.name)
            if answer:
                allowing = allowing or statement.name
    return Decision(True, "allowed by an identity policy", allowing) if allowing else Decision(False, "no identity policy allows it")


def authorize(key_policy: Policy, identity_policies: Sequence[Policy], request: AccessRequest, *, key_account: str) -> Decision:
    """The whole answer: the key policy and the principal's IAM policies together. Raises PolicyError.

    A Deny of either wins. In the key's account the key policy's Allow is enough, or one that leaves it to IAM and an IAM policy's; from another account both must allow.
    """
    by_key = evaluate(key_policy, request)
    by_identity = evaluate_identity(identity_policies, request)
    if by_key.reason == "explicit deny":
        return by_key
    if by_identity.reason.startswith("explicit deny") or not (by_key.allowed or by_key.delegated_to_iam):
        return by_identity if by_identity.reason.startswith("explicit deny") else by_key
    return by_key if by_key.allowed and request.account == key_account else by_identity


def matching(statement: Statement, request: AccessRequest) -> tuple[bool | None, bool | None]:
    """Whether a statement matches the request: naming the principal itself, and naming its account, for whom IAM then decides. None: it depends on what is not known."""
    direct, delegated = _principals(statement, request)
    if direct is False and delegated is False:
        return False, False
    rest = _rest(statement, request)
    return every((direct, rest)), every((delegated, rest))


def _statements(policy: Policy, *, identity: bool) -> Sequence[Statement]:
    if isinstance(policy, str | bytes | Mapping):
        return parse_policy(policy, identity=identity)
    return policy


def _principals(statement: Statement, request: AccessRequest) -> tuple[bool | None, bool | None]:
    principals = statement.principals
    assert principals is not None  # parse_policy gives every statement of a key policy some
    direct, delegated = _named(principals, request)
    if not principals.negated:
        # A Deny that names the account denies everybody in it.
        return (direct, delegated) if statement.allows else (direct or delegated, False)
    if statement.allows:
        return not (direct or delegated), False
    if direct and delegated:
        return False, False
    # The guide wants the account named beside its role or user to except them from a Deny: with one of the two alone it is open.
    return (None if direct or delegated else True), False


def _named(principals: Principals, request: AccessRequest) -> tuple[bool, bool]:
    """(directly, through the account)."""
    names = {name for kind, name in principals.names if kind == request.kind}
    everybody = ("AWS", "*") in principals.names
    root = f"arn:{request.partition}:iam::{request.account}:root"
    account = request.kind == "AWS" and bool(names & {request.account, root})
    direct = any(arn in names for arn in request.arns) or (account and request.principal_arn == root)
    return everybody or direct, everybody or account


def _rest(statement: Statement, request: AccessRequest) -> bool | None:
    resolve = resolver(request.values) if statement.variables else None
    return every([
        _fits(statement.actions, request.action, None, ignore_case=True),
        _fits(statement.resources, request.resource, resolve),
        *(holds(condition, request.values, variables=statement.variables) for condition in statement.conditions),
    ])  # fmt: skip


def _fits(patterns: Patterns, text: str | Unknown, resolve: Resolve | None, *, ignore_case: bool = False) -> bool | None:
    answer = some(_fit(pattern, text, resolve, ignore_case) for pattern in patterns.values)
    return negate(answer) if patterns.negated else answer


def _fit(pattern: str, text: str | Unknown, resolve: Resolve | None, ignore_case: bool) -> bool | None:
    if isinstance(text, Unknown):
        return True if pattern == "*" else None
    if resolve is not None and "${" in ":".join(pattern.split(":")[:5]):
        return None  # a variable can stand behind an ARN's fifth colon alone (IAM User Guide, "Variables and tags")
    return matches(pattern, text, ignore_case=ignore_case, segments=text.startswith("arn:"), resolve=resolve)
