"""(3) Deployed keys: policy, grants, aliases and state, as KMS tells them to somebody who may only read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from nitrokit.core.intrinsics import is_known
from nitrokit.core.key_policy import ATTESTED_ACTIONS, Grant, PolicyError, policy_differences
from nitrokit.gate.key_policies import KeyPolicy, compare_key_policy
from nitrokit.gate.locks import LockedImage
from nitrokit.gate.report import Comparison, Place
from nitrokit.gate.stack import Stack
from nitrokit.gate.templates import UNSEALED

_OPENING = {one.removeprefix("kms:") for one in ATTESTED_ACTIONS} | {"ReEncryptFrom", "CreateGrant", "Decapsulate"}
"""Grant operations that give data away, or let somebody give it away (KMS API Reference, CreateGrant)."""
_NOT_COMPARED = "; its other statements were not compared: the template names what only CloudFormation knows"


@dataclass(frozen=True)
class Key:
    """A key to look at. ``id``: ARN, key id or alias; ``expected``: the policy that it should have, where that is known; ``aliases``: the names that must lead to it."""

    id: str
    expected: Mapping[str, Any] | None = None
    aliases: tuple[str, ...] = ()


def keys_of(stack: Stack) -> list[Key]:
    """The stack's keys whose policy speaks of attestation."""
    found = []
    for logical, physical, properties in stack.resources("AWS::KMS::Key"):
        policy = properties.get("KeyPolicy")
        if isinstance(policy, dict) and "recipientattestation" in json.dumps(policy).lower():
            arn = stack.names(f"{logical}.Arn")
            aliases = [name for _, name, alias in stack.resources("AWS::KMS::Alias") if alias.get("TargetKeyId") in (physical, arn)]
            found.append(Key(physical, policy, tuple(aliases)))
    return found


def compare_key(kms: Any, key: Key, images: Sequence[LockedImage], time: datetime) -> Iterator[Comparison]:
    """Everything about one key. A key that cannot be read is ``unreachable``."""
    try:
        about = kms.describe_key(KeyId=key.id)["KeyMetadata"]
        arn = str(about["Arn"])
        policy = json.loads(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
        grants = [one for page in kms.get_paginator("list_grants").paginate(KeyId=arn) for one in page["Grants"]]
        aliases = {alias: _leads_to(kms, alias) for alias in key.aliases}
    except (ClientError, BotoCoreError) as error:
        yield Comparison(Place.KEY, key.id, "unreachable", f"the key cannot be read: {error}")
        return
    subject = arn if key.id in arn else f"{arn} ({key.id})"
    if about["KeyState"] != "Enabled":
        yield Comparison(Place.KEY, subject, "key-state", f"the key is {about['KeyState']}")
    yield from _compare_grants(subject, grants)
    for alias, target in aliases.items():
        if target != arn:
            yield Comparison(Place.KEY, subject, "alias-moved", f"{alias} leads to {target or 'no key'}, not to the stack's key")
    yield from _compare_policy(subject, arn, policy, grants, key, images, time)


def _compare_policy(
    subject: str, arn: str, policy: Mapping[str, Any], grants: Sequence[Any], key: Key, images: Sequence[LockedImage], time: datetime
) -> Iterator[Comparison]:
    edited = _edits(policy, key.expected)
    if edited:
        yield Comparison(
            Place.KEY, subject, "policy-edited", f"{len(edited)} statement(s) differ from the template's", details=tuple(edited)
        )
    # Whom the template lets change the policy is known to be meant only where the deployed policy is the template's.
    tolerated = UNSEALED if edited == [] else ()
    partition, account = arn.split(":")[1], arn.split(":")[4]
    known = [Grant(str(one["GrantId"]), str(one.get("GranteePrincipal", "?")), tuple(one.get("Operations", ()))) for one in grants]
    note = _NOT_COMPARED if key.expected is not None and edited is None else ""
    one = KeyPolicy(Place.KEY, subject, policy, account, partition, grants=known, tolerated=tolerated, note=note)
    yield from compare_key_policy(one, images, time)


def _edits(policy: Mapping[str, Any], expected: Mapping[str, Any] | None) -> list[str] | None:
    """None: nobody here knows what the policy should be."""
    if expected is None or not is_known(expected):
        return None
    try:
        return policy_differences(policy, expected)
    except PolicyError as error:
        return [str(error)]


def _compare_grants(subject: str, grants: Sequence[Any]) -> Iterator[Comparison]:
    for one in grants:
        opening = sorted(_OPENING & set(one.get("Operations", ())))
        if opening:
            reason = f"grant {one['GrantId']} to {one.get('GranteePrincipal', 'somebody')} over {', '.join(opening)}"
            yield Comparison(Place.KEY, subject, "grant", reason)


def _leads_to(kms: Any, alias: str) -> str | None:
    """The ARN of the key behind an alias. Raises botocore's errors but for an alias that is gone."""
    try:
        return str(kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "NotFoundException":
            return None
        raise
