"""A key's deployed policy, grants and aliases against what was synthesised. Read and judge; restoring is the caller's choice.

Sources: KMS API Reference "GetKeyPolicy", "ListGrants", "ListAliases", "DescribeKey"; KMS Developer Guide "Grants" (no grant can demand attestation).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from nitrokit.core.key_policy import Finding as PolicyFinding
from nitrokit.core.key_policy import Grant, PolicyError, Severity, analyze_key_policy, policy_differences
from nitrokit.handlers.findings import Finding
from nitrokit.handlers.settings import GuardedKey

_UNREADABLE = ("AccessDeniedException", "NotFoundException", "KMSInvalidStateException")


@dataclass(frozen=True)
class KeyState:
    """What was found. ``problems``: one sentence each; none: the key is as synthesised. ``edited``: its policy differs; ``grants``: those that exist; ``lasting``: those of the problems that
    ``restore`` does not mend.
    """

    key: GuardedKey
    problems: tuple[str, ...]
    lasting: tuple[str, ...]
    edited: bool = False
    grants: tuple[Grant, ...] = ()

    @property
    def outcome(self) -> str:
        return "; ".join(self.problems) or "intact"

    def as_finding(self, restored: bool) -> Finding:
        return Finding(
            kind="key-policy",
            subject=self.key.name,
            title=f"Key {self.key.name} is {'as synthesised' if not self.problems else 'not as synthesised'}",
            description="; ".join(self.problems) + (" (restored)" if restored else "")
            or "Its policy says what was synthesised, no grant exists, and its aliases lead to it.",
            severity="CRITICAL",
            resource=(self.key.arn, "AwsKmsKey"),
            remedy="Find out who changed it (CloudTrail: PutKeyPolicy, CreateGrant, UpdateAlias), and what was decrypted since (the function audit).",
            passed=not self.problems,
            details={"key": self.key.arn, "restored": str(restored).lower()},
        )


def examine(kms: Any, key: GuardedKey, account: str, partition: str) -> KeyState:
    """Read a key and compare it. A key that cannot be read is a problem of its own; other errors of KMS, throttling among them, pass through."""
    try:
        described = kms.describe_key(KeyId=key.arn)["KeyMetadata"]
        deployed = kms.get_key_policy(KeyId=key.arn, PolicyName="default")["Policy"]
        grants = _grants(kms, key.arn)
        moved = _moved_aliases(kms, key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _UNREADABLE:
            raise
        unreadable = (f"the key cannot be read: {error.response['Error']['Code']}",)
        return KeyState(key, unreadable, unreadable)
    lasting, different = (*_state(described), *moved), _differences(deployed, key)
    problems = (
        *lasting,
        *different,
        *_openings(deployed, key, grants, account, partition),
        *(f"grant {one.id} lets {one.grantee_principal} {', '.join(one.operations)}" for one in grants),
    )
    return KeyState(key, problems, lasting, bool(different), grants)


def _grants(kms: Any, arn: str) -> tuple[Grant, ...]:
    pages = kms.get_paginator("list_grants").paginate(KeyId=arn)
    return tuple(
        Grant(one["GrantId"], one.get("GranteePrincipal", "?"), tuple(one.get("Operations", ())))
        for page in pages
        for one in page["Grants"]
    )


def _moved_aliases(kms: Any, key: GuardedKey) -> list[str]:
    """Those that do not lead to the key: who encrypts under such a name encrypts under another key. All of the account's are asked for only where one is missed."""
    own = _aliases(kms, KeyId=key.arn) if key.aliases else {}
    missed = [one for one in key.aliases if one not in own]
    everywhere = _aliases(kms) if missed else {}
    return [f"{one} leads to key {everywhere[one]}, not to this one" if one in everywhere else f"{one} leads to no key" for one in missed]


def _aliases(kms: Any, **of: str) -> dict[str, str]:
    pages = kms.get_paginator("list_aliases").paginate(**of)
    return {one["AliasName"]: one["TargetKeyId"] for page in pages for one in page["Aliases"] if "TargetKeyId" in one}


def _state(described: dict[str, Any]) -> list[str]:
    found = []
    if described.get("KeyState") != "Enabled":
        found.append(f"the key is {described.get('KeyState')}")
    if described.get("MultiRegion"):
        found.append("the key has replicas, whose policies are their own")
    return found


def _differences(deployed: str, key: GuardedKey) -> list[str]:
    try:
        return policy_differences(deployed, key.policy)
    except PolicyError as error:
        return [f"its policy is not understood: {error}"]


def _openings(deployed: str, key: GuardedKey, grants: Sequence[Grant], account: str, partition: str) -> list[str]:
    """What policy and grants open that the synthesised policy does not. A policy that is not understood was told already."""
    try:
        known = {_what(one) for one in analyze_key_policy(key.policy, account=account, partition=partition)}
        found = analyze_key_policy(deployed, account=account, partition=partition, grants=grants)
    except PolicyError:
        return []
    return [_told(one) for one in found if one.severity >= Severity.HIGH and _what(one) not in known]


def _what(one: PolicyFinding) -> object:
    """A finding, whatever its statement is called."""
    return (one.id, frozenset(one.actions), frozenset(one.principals))


def _told(one: PolicyFinding) -> str:
    return f"{one.id} in {one.statement or 'the policy'}: {one.reason}"


def restore(kms: Any, state: KeyState) -> None:
    """Put the synthesised policy back where it differs, and revoke every grant. ``kms``: of the one who may; on a sealed key nobody may change the policy, so nobody could have.

    An alias stays where it is: moving it takes a permission on the other key, too.
    """
    if state.edited:
        kms.put_key_policy(
            KeyId=state.key.arn, PolicyName="default", Policy=json.dumps(state.key.policy), BypassPolicyLockoutSafetyCheck=True
        )
    for one in state.grants:
        kms.revoke_grant(KeyId=state.key.arn, GrantId=one.id)
