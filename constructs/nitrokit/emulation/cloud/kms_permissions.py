"""What a KMS call needs leave for, and what besides policies gives it: two keys in one call, grants, aliases and tags.

Sources: KMS API Reference ("Required permissions" of ReEncrypt, CreateAlias, UpdateAlias, DeleteAlias); KMS Developer Guide "Grants" (a grant allows what no policy denies), "ABAC for KMS".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nitrokit.core.key_policy import AccessRequest, Decision

Find = Callable[[dict[str, Any]], Any]
"""The key that ``KeyId`` names, or whose ``CiphertextBlob`` it is."""


def permissions(action: str, request: dict[str, Any], find: Find) -> list[tuple[str, Any]]:
    """(IAM action, key) pairs: all of them must be allowed."""
    match action:
        case "ReEncrypt":
            source = {"KeyId": request.get("SourceKeyId"), "CiphertextBlob": request.get("CiphertextBlob")}
            return [("ReEncryptFrom", find(source)), ("ReEncryptTo", find({"KeyId": request.get("DestinationKeyId")}))]
        case "CreateAlias":
            return [(action, find({"KeyId": request.get("TargetKeyId")}))]
        case "DeleteAlias":
            return [(action, find({"KeyId": request.get("AliasName")}))]
        case "UpdateAlias":
            return [(action, find({"KeyId": request.get(name)})) for name in ("AliasName", "TargetKeyId")]
    return [(action, find(request))]


def granted(decision: Decision, access: AccessRequest, key: Any) -> Decision:
    """A policy's answer, or a grant's where no policy denies. Constraints are not looked at: a grant that has some is none here."""
    if decision.allowed or decision.reason.startswith("explicit deny"):
        return decision
    operation = access.action.removeprefix("kms:")
    for grant in key.grants.values():
        if operation in grant.operations and grant.grantee_principal in access.arns and not grant.constraints:
            return Decision(True, "allowed by a grant", grant.id)
    return decision


def attributes(key: Any, request: dict[str, Any], tags: dict[str, str]) -> dict[str, str | list[str]]:
    """The condition keys that go with a key's names and tags."""
    named = str(request.get("KeyId", "")).rpartition(":")[2]
    found: dict[str, str | list[str]] = {f"aws:ResourceTag/{name}": value for name, value in tags.items()}
    if key.aliases:
        found["kms:ResourceAliases"] = list(key.aliases)
    return {**found, "kms:RequestAlias": named} if named.startswith("alias/") else found
