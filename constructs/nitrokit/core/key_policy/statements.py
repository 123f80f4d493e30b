"""The key policy of an EnclaveKey: fail closed, for every principal, over every way round.

Sources: KMS Developer Guide "AWS KMS condition keys for AWS Nitro Enclaves" (five actions take ``Recipient``), "Controlling access to aliases" (moving or deleting an alias needs
permission on the key that it names); IAM User Guide "Condition operators" (negated operators match when the key is absent, which is when no document is given).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nitrokit.core.key_policy.document import PolicyError
from nitrokit.core.key_policy.openings import Opening, common_pcrs, condition_key, openings
from nitrokit.core.measurements import Measurements
from nitrokit.core.reference_values import ReferenceValues

MAX_POLICY = 32_768
"""Bytes of a key policy (KMS Developer Guide, "Resource quotas")."""
ATTESTED_ACTIONS = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
"""Actions on a key that accept ``Recipient``. GenerateRandom does too, but has no key."""
OWNER_ACTIONS = ("kms:DescribeKey", "kms:Encrypt", "kms:GetPublicKey")
"""What a data owner may do."""

_NEVER = ("kms:CreateGrant", "kms:Decapsulate", "kms:ReEncryptFrom", "kms:ReplicateKey")
"""Actions that could open data, or let somebody open it, and that no attestation can gate."""

_CHANGES = ("kms:PutKeyPolicy", "kms:DeleteAlias", "kms:UpdateAlias")
"""Who may change the policy may open everything; who may move an alias makes data owners encrypt under another key."""

_ADMINISTRATION = (
    "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DescribeKey", "kms:DisableKey", "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus", "kms:ListAliases", "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListResourceTags", "kms:ListRetirableGrants", "kms:RetireGrant", "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:UpdateKeyDescription",
)  # fmt: skip


def build_key_policy(
    *,
    measurements: Sequence[Measurements],
    host_role_arn: str,
    account: str,
    partition: str = "aws",
    data_owner_arns: Sequence[str] = (),
    administrator_arn: str | None = None,
    sealed: bool = True,
) -> dict[str, Any]:
    """``policy_for`` one role and images without a rollover. Raises PolicyError."""
    found = [opening for one in measurements for opening in openings(host_role_arn, ReferenceValues(one))]
    owners = [list(data_owner_arns)] if data_owner_arns else []
    return policy_for(
        found,
        account=account,
        partition=partition,
        data_owners=[(one, {}) for one in owners],
        administrator_arn=administrator_arn,
        sealed=sealed,
    )


def policy_for(
    found: Sequence[Opening],
    *,
    account: str,
    partition: str = "aws",
    data_owners: Sequence[tuple[Any, Mapping[str, Any]]] = (),
    administrator_arn: str | None = None,
    sealed: bool = True,
) -> dict[str, Any]:
    """The policy document. ARNs, ``account`` and PCR values may be unresolved CDK tokens: they are only placed, never parsed.

    - one Allow for each opening: its set of measurements whole (keys are ANDed), for its principal, with its date. The Sid tells the date;
    - an explicit Deny for every principal over the attested actions for each PCR whose value is in no opening, or where there is no document;
    - an explicit Deny for every principal over actions that no attestation can gate;
    - ``data_owners``, pairs of principals and further conditions, may encrypt; the account administers without a way round. ``sealed``: nobody may change the policy or move an
      alias. Else ``administrator_arn`` alone may, and whoever may do that may open everything.

    A document that mixes values of two sets passes the Denies and finds no Allow. Raises PolicyError for no opening, a policy that is too large, an open one without a named
    administrator, or an administrator who is not one principal.
    """
    _check(found, administrator_arn, sealed)
    unique = list({json.dumps([one.principal, one.conditions()], sort_keys=True): one for one in found}.values())
    root = f"arn:{partition}:iam::{account}:root"
    statements = [
        *(_allow(number, one) for number, one in enumerate(unique)),
        *(_deny(index, unique) for index in common_pcrs(unique)),
        _statement("DenyWhatNoAttestationGates", "Deny", "*", [*_NEVER, *_CHANGES] if sealed else _NEVER),
        *_owners(data_owners),
        _statement("Administration", "Allow", [root, administrator_arn] if administrator_arn else root, _ADMINISTRATION),
        *([] if sealed else [_statement("ChangePolicy", "Allow", administrator_arn, _CHANGES)]),
    ]
    policy = {"Version": "2012-10-17", "Statement": statements}
    check_size(policy, sets=len(unique))
    return policy


def check_size(policy: Mapping[str, Any], *, sets: int) -> None:
    """Raises PolicyError when the policy is larger than KMS takes."""
    size = len(json.dumps(policy, separators=(",", ":")))
    if size > MAX_POLICY:
        raise PolicyError(
            "too-large",
            "the key policy is larger than KMS takes",
            got=f"{size} bytes for {sets} sets of measurements",
            expected=f"at most {MAX_POLICY}",
            do="retire sets, or use another key",
        )


_CROWD = re.compile(r"[0-9]{12}|.*[*?].*|.*:root")
"""Names of more than one principal; an account's number or root stands for whomever its IAM policies let."""


def _check(found: Sequence[Opening], administrator_arn: str | None, sealed: bool) -> None:
    if administrator_arn is not None and _CROWD.fullmatch(administrator_arn):
        raise PolicyError(
            "administrator",
            "the administrator must be one principal: whoever may change the policy may open everything",
            got=administrator_arn,
            expected="the ARN of a role",
            do="name the one role that may change the policy",
        )
    if not found:
        raise PolicyError("no-measurements", "a key without measurements opens for nobody", expected="at least one set")
    if not sealed and administrator_arn is None:
        raise PolicyError(
            "no-administrator",
            "an unsealed key needs a named administrator",
            expected="the ARN of the one role that may change the policy",
            do="name it, or seal the key",
        )


def _statement(
    sid: str, effect: str, principals: Any, actions: Sequence[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement = {"Sid": sid, "Effect": effect, "Principal": {"AWS": principals}, "Action": list(actions), "Resource": "*"}
    return {**statement, "Condition": condition} if condition else statement


def _allow(number: int, one: Opening) -> dict[str, Any]:
    until = "" if one.date is None else "Until" + one.date.translate({ord("-"): None, ord(":"): None})
    return _statement(f"AttestedEnclave{number}{until}", "Allow", one.principal, ATTESTED_ACTIONS, one.conditions())


def _deny(index: int, found: Sequence[Opening]) -> dict[str, Any]:
    """Negated operators match when the value is none of those listed, and when there is no document at all."""
    values = sorted({one.pcrs[index] for one in found})
    return _statement(f"DenyUnlessPcr{index}", "Deny", "*", ATTESTED_ACTIONS, {"StringNotEqualsIgnoreCase": {condition_key(index): values}})


def _owners(data_owners: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    return [
        _statement(f"DataOwnersEncrypt{number or ''}", "Allow", principals, OWNER_ACTIONS, condition)
        for number, (principals, condition) in enumerate(data_owners)
    ]
