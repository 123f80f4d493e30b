"""Every way round the attestation that ``analyze_key_policy`` finds, one rule for each of its findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nitrokit.cdk.validation.keys import AttestedKey, attested_keys
from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.core.key_policy import RULES as FINDINGS
from nitrokit.core.key_policy import PolicyError, Severity, analyze_key_policy
from nitrokit.core.key_policy.adversaries import ANYBODY

_FROM_ANYBODY = "unauthenticated-ciphertext"
"""Data owners encrypt, so this is told only where anybody may."""
_OF_FINDINGS = {
    id: Rule(f"nitrokit/{id}", one.severity, one.reason, one.fix)
    for id, one in FINDINGS.items()
    if one.severity > Severity.INFO or id == _FROM_ANYBODY
}
_UNREADABLE = Rule(
    "nitrokit/policy-form", Severity.HIGH, "a key policy that speaks of attestation is not understood", "write it as IAM's grammar says"
)
RULES = (*_OF_FINDINGS.values(), _UNREADABLE)


def check(app: App) -> Iterator[Violation]:
    """Keys whose policy mentions RecipientAttestation."""
    for key in attested_keys(app):
        try:
            policies = key.policies
        except PolicyError as error:
            yield key.broken(_UNREADABLE, str(error))
            continue
        found = [(one.when, set(_broken(key, one.policy))) for one in policies]
        always = set.intersection(*(broken for _, broken in found))
        for rule, detail in sorted(always, key=_worst_first):
            yield key.broken(rule, detail)
        for when, broken in found:
            for rule, detail in sorted(broken - always, key=_worst_first):
                yield key.broken(rule, detail, when=when)


def _worst_first(broken: tuple[Rule, str]) -> tuple[int, str, str]:
    return -broken[0].severity, broken[0].id, broken[1]


def _broken(key: AttestedKey, policy: Any) -> Iterator[tuple[Rule, str]]:
    """(rule, detail) of one outcome."""
    environment = key.template.environment
    try:
        found = analyze_key_policy(policy, account=environment.account, partition=environment.partition)
    except PolicyError as error:
        yield _UNREADABLE, str(error)
        return
    for one in found:
        if one.id in _OF_FINDINGS and (one.id != _FROM_ANYBODY or one.principals == (ANYBODY,)):
            parts = (one.statement, one.detail, ", ".join(one.actions), f"for {', '.join(one.principals)}" if one.principals else "")
            yield _OF_FINDINGS[one.id], "; ".join(filter(None, parts))
