"""Reasoning about a key policy: who can open data without the attestation of an accepted image, by which statement, and what to do about it.

The policy is evaluated, by the same code as the local KMS uses, for each principal and document of ``adversaries``, in three values: where a condition's outcome is not known, an Allow
may hold and a Deny may not. What is found can therefore be too much (a condition on the network, say, is taken to be met), never too little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nitrokit.core.key_policy.adversaries import (
    ANYBODY,
    ZERO,
    Actor,
    Document,
    actors,
    documents,
    is_attestation_key,
    is_pcr_value,
    is_positive,
    right_document,
    wanted_by,
)
from nitrokit.core.key_policy.conditions import split_operator
from nitrokit.core.key_policy.document import Condition, Patterns, PolicyError, Principals, Statement, parse_policy
from nitrokit.core.key_policy.evaluate import ATTESTATION_PREFIX, AccessRequest, matching
from nitrokit.core.key_policy.patterns import Unknown, matches
from nitrokit.core.key_policy.rules import RULES, Severity
from nitrokit.core.key_policy.statements import ATTESTED_ACTIONS, MAX_POLICY
from nitrokit.core.measurements import EMPTY_PCR2

_UNGATED = {
    "kms:ReEncryptFrom": "re-encrypt",
    "kms:Decapsulate": "decapsulate",
    "kms:CreateGrant": "grant",
    "kms:PutKeyPolicy": "policy-change",
    "kms:ReplicateKey": "replication",
    "kms:UpdateAlias": "alias-move",
    "kms:DeleteAlias": "alias-move",
    "kms:Encrypt": "unauthenticated-ciphertext",
    "kms:GenerateDataKeyWithoutPlaintext": "unauthenticated-ciphertext",
    "kms:GenerateDataKeyPairWithoutPlaintext": "unauthenticated-ciphertext",
    "kms:ReEncryptTo": "unauthenticated-ciphertext",
}
"""Actions that take no attestation document → the finding."""
_ATTRIBUTES = ("kms:requestalias", "kms:resourcealiases", "aws:resourcetag/", "aws:requesttag/", "aws:principaltag/")
_TPM = f"{ATTESTATION_PREFIX}nitrotpmpcr"


@dataclass(frozen=True)
class Grant:
    """A grant that exists on the key. ``operations``: as in the API, e.g. Decrypt. Its constraints (encryption context) are taken to be met."""

    id: str
    grantee_principal: str
    operations: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One finding. ``id``: stable, a key of RULES. ``statement``: its Sid or place, or the grant; None for the whole policy. ``actions``, ``principals``: whom and what it concerns."""

    id: str
    statement: str | None
    actions: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    detail: str | None = None

    @property
    def severity(self) -> Severity:
        return RULES[self.id].severity

    @property
    def reason(self) -> str:
        return RULES[self.id].reason + (f" ({self.detail})" if self.detail else "")

    @property
    def fix(self) -> str:
        return RULES[self.id].fix

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        where = {"statement": self.statement, "actions": list(self.actions), "principals": list(self.principals)}
        return {"id": self.id, "severity": self.severity.name.lower(), **where, "reason": self.reason, "fix": self.fix}


def analyze_key_policy(
    policy: str | bytes | Mapping[str, Any], *, account: str, partition: str = "aws", grants: Sequence[Grant] = ()
) -> list[Finding]:
    """All findings of a key policy (and of the grants on its key), the worst first. ``account``: the key's, 12 digits. Raises PolicyError for what is not a policy."""
    statements = parse_policy(policy)
    analysis = _Analysis(statements, grants, account, partition)
    found = [*analysis.openings(), *analysis.static()]
    size = len(policy) if isinstance(policy, str | bytes) else len(json.dumps(policy, separators=(",", ":")))
    if size > MAX_POLICY:
        found.append(Finding("document-size", None, detail=f"{size} bytes"))
    return sorted(found, key=lambda one: -one.severity)


_ANYTHING = Patterns(("*",), negated=False)


class _Analysis:
    def __init__(self, statements: Sequence[Statement], grants: Sequence[Grant], account: str, partition: str) -> None:
        self._allows = [_understood(statement) for statement in statements if statement.allows] + [_as_statement(grant) for grant in grants]
        self._grants = {f"grant {grant.id}" for grant in grants}
        self._denies = [_understood(statement) for statement in statements if not statement.allows]
        self._statements = statements
        self._actors = actors([*statements, *self._allows], account, partition)
        self._partition = partition
        self._tried: dict[Statement, list[tuple[str, Document]]] = {}

    def openings(self) -> Iterator[Finding]:
        """Findings by evaluation: for each Allow, who passes with which document."""
        opened = False
        for allow in self._allows:
            whom: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
            for actor in self._named_by(allow):
                for action, finding in self._passes(allow, actor):
                    actions, principals = whom.setdefault(finding, ({}, {}))
                    actions[action] = principals[actor.label] = None
            opened = opened or any(action in ATTESTED_ACTIONS for actions, _ in whom.values() for action in actions)
            for finding, (actions, principals) in whom.items():
                if finding:
                    yield Finding(finding, allow.name, tuple(actions), _plain(principals), _why(allow) if finding == "unattested" else None)
        if not opened:
            yield Finding("nobody", None)

    def _passes(self, allow: Statement, actor: Actor) -> Iterator[tuple[str, str]]:
        """(action, finding); the finding is empty for an accepted document."""
        for action, finding in _UNGATED.items():
            if self._may(allow, actor, action, {}):
                yield action, finding
        for action in ATTESTED_ACTIONS:
            for finding, context in self._documents(allow):
                if how := self._may(allow, actor, action, context):
                    yield action, _named(finding, how, allow.name in self._grants)
                    break
            if self._may(allow, actor, action, right_document(wanted_by(allow))):
                yield action, ""

    def _named_by(self, allow: Statement) -> list[Actor]:
        """Whom the statement is about at all: the others need no further look."""
        about = replace(allow, actions=_ANYTHING, resources=_ANYTHING, conditions=())
        return [actor for actor in self._actors if any(matching(about, self._request(actor, "kms:Decrypt", {})))]

    def _documents(self, allow: Statement) -> list[tuple[str, Document]]:
        if allow not in self._tried:
            self._tried[allow] = list(documents(self._statements, wanted_by(allow)))
        return self._tried[allow]

    def _request(self, actor: Actor, action: str, document: Document) -> AccessRequest:
        context = {**actor.context(), **document}
        return AccessRequest(
            action, actor.arn, actor.account, Unknown.UNKNOWN, context, partition=self._partition, kind=actor.kind, open=True
        )

    def _may(self, allow: Statement, actor: Actor, action: str, document: Document) -> str:
        """Empty, or where the Allow may match and no Deny surely does: "direct", or "delegated" to IAM."""
        request = self._request(actor, action, document)
        direct, delegated = matching(allow, request)
        if (direct is False and delegated is False) or any(matching(deny, request)[0] for deny in self._denies):
            return ""
        return "delegated" if direct is False else "direct"

    def static(self) -> Iterator[Finding]:
        """Findings from a statement's text alone."""
        for statement in self._statements:
            for finding, detail in _textual(statement):
                yield Finding(finding, statement.name, detail=detail)


def _named(finding: str, how: str, is_grant: bool) -> str:
    if is_grant:
        return "existing-grant"
    return "iam-delegation" if finding == "unattested" and how == "delegated" else finding


def _plain(labels: Mapping[str, None]) -> tuple[str, ...]:
    """Anybody makes the others superfluous."""
    return (ANYBODY,) if ANYBODY in labels else tuple(labels)


def _as_statement(grant: Grant) -> Statement:
    actions = Patterns(tuple(f"kms:{operation}" for operation in grant.operations), negated=False)
    principals = Principals((("AWS", grant.grantee_principal),), negated=False)
    return Statement(f"grant {grant.id}", "Allow", principals, actions, Patterns(("*",), negated=False), (), variables=False)


_NEVER_KNOWN = Condition("StringEquals", "nitrokit:not-understood", ("",))


def _understood(statement: Statement) -> Statement:
    """The statement with conditions that the evaluator refuses replaced by one whose outcome is not known."""
    conditions = tuple(_NEVER_KNOWN if _unknown_operator(one) else one for one in statement.conditions)
    return replace(statement, conditions=conditions)


def _unknown_operator(condition: Condition) -> bool:
    try:
        split_operator(condition.operator)
    except PolicyError:
        return True
    return False


def _why(allow: Statement) -> str:
    """Why a statement needs no document although it may seem to."""
    about = [one for one in allow.conditions if one.key.lower().startswith(ATTESTATION_PREFIX)]
    if not about:
        return "it has no attestation condition"
    return "; ".join(f"{one.operator} on {one.key} holds without a document" for one in about)


def _textual(statement: Statement) -> Iterator[tuple[str, str | None]]:
    for condition in statement.conditions:
        yield from _condition(statement, condition)
    if not statement.allows:
        return
    if statement.principals is not None and statement.principals.negated:
        yield "not-principal", None
    if statement.actions.negated:
        yield "not-action", ", ".join(statement.actions.values)
    elif wild := [one for one in statement.actions.values if "*" in one or "?" in one]:
        yield "wildcard-action", ", ".join(wild)
    attested = [one for one in statement.conditions if is_attestation_key(one.key) and is_positive(one)]
    if attested and (other := [one for one in statement.actions.values if not _takes_document(one)]):
        yield "misplaced-condition", ", ".join(other)


def _takes_document(action: str) -> bool:
    return any(matches(action, one, ignore_case=True) for one in (*ATTESTED_ACTIONS, "kms:GenerateRandom"))


def _condition(statement: Statement, condition: Condition) -> Iterator[tuple[str, str | None]]:
    key = condition.key.lower()
    if _unknown_operator(condition):
        yield "unknown-operator", condition.operator
    if key.startswith(_ATTRIBUTES):
        yield "attribute-based", condition.key
    if not key.startswith(ATTESTATION_PREFIX.rstrip(":")):
        return
    if not is_attestation_key(key):
        yield "unknown-key", condition.key
        return
    if _unknown_operator(condition) or split_operator(condition.operator)[1] == "Null":
        return
    for value in condition.values:
        if not _is_pcr_value(value, condition.operator):
            yield "value-form", f"{condition.key}: {value[:24]}…"
        elif value.lower() == ZERO and key != f"{_TPM}12":  # zero is what PCR12 of an attestable AMI has
            yield "zero-value", condition.key
        elif value.lower() == EMPTY_PCR2.hex() and key.endswith("r2"):
            yield "empty-value", condition.key


def _is_pcr_value(value: str, operator: str) -> bool:
    """KMS compares lower-case hex; an operator that folds case may name it in upper case; a pattern with wildcards must be able to match."""
    text = value.lower() if "IgnoreCase" in operator else value
    if "Like" in operator and ("*" in value or "?" in value):
        return all(one in "0123456789abcdef*?" for one in text)
    return is_pcr_value(text)
