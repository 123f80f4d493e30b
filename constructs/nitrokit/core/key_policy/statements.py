"""The key policy of an EnclaveKey: fail closed, for every principal, over every way round.

Sources: KMS Developer Guide "AWS KMS condition keys for AWS Nitro Enclaves" (five actions take ``Recipient``; values are ORed within a key, keys ANDed);
IAM User Guide "Condition operators" (negated operators match when the key is absent, which is when no document is given).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nitrokit.core.key_policy.document import PolicyError
from nitrokit.core.measurements import EMPTY_PCR2, Measurements

MAX_POLICY = 32_768
ATTESTED_ACTIONS = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
"""Actions on a key that accept ``Recipient``. GenerateRandom does too, but has no key."""

_NEVER = ("kms:CreateGrant", "kms:Decapsulate", "kms:ReEncryptFrom", "kms:ReplicateKey")
"""Actions that could open data, or let somebody open it, and that no attestation can gate."""

_ADMINISTRATION = (
    "kms:CancelKeyDeletion", "kms:DescribeKey", "kms:DisableKey", "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
    "kms:ListAliases", "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListResourceTags", "kms:ListRetirableGrants", "kms:RetireGrant", "kms:RevokeGrant", "kms:ScheduleKeyDeletion",
    "kms:TagResource", "kms:UntagResource", "kms:UpdateKeyDescription", "kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias",
)  # fmt: skip
_OWNER = ("kms:DescribeKey", "kms:Encrypt", "kms:GetPublicKey")


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
    """The policy document. ARNs and ``account`` may be unresolved CDK tokens: they are only placed, never parsed.

    - one Allow for each set of measurements, whole (keys are ANDed), for the host's role;
    - an explicit Deny for every principal over the attested actions for each PCR whose value is in no set, or where there is no document;
    - an explicit Deny for every principal over actions that no attestation can gate;
    - data owners may encrypt; administration without a way round. ``sealed``: nobody may change the policy. Else ``administrator_arn`` alone may, and whoever may do that may open everything.

    A document that mixes values of two sets passes the Denies and finds no Allow. Raises PolicyError for no set, zero or empty values, or an open policy without a named administrator.
    """
    _check(measurements, administrator_arn, sealed)
    statements: list[dict[str, Any]] = [_allow(number, one, host_role_arn) for number, one in enumerate(measurements)]
    statements += [_deny(index, measurements) for index in (0, 1, 2, 8) if all(index in one.pcrs() for one in measurements)]
    never = [*_NEVER, "kms:PutKeyPolicy"] if sealed else [*_NEVER]
    statements.append(_statement("DenyWhatNoAttestationGates", "Deny", "*", never))
    if data_owner_arns:
        statements.append(_statement("DataOwnersEncrypt", "Allow", list(data_owner_arns), _OWNER))
    root = f"arn:{partition}:iam::{account}:root"
    statements.append(_statement("Administration", "Allow", administrator_arn or root, _ADMINISTRATION))
    if not sealed:
        statements.append(_statement("ChangePolicy", "Allow", administrator_arn, ["kms:PutKeyPolicy"]))
    policy = {"Version": "2012-10-17", "Statement": statements}
    size = len(json.dumps(policy, separators=(",", ":")))
    if size > MAX_POLICY:
        raise PolicyError(
            "too-large",
            "the key policy is larger than KMS takes",
            got=f"{size} bytes for {len(measurements)} sets of measurements",
            expected=f"at most {MAX_POLICY}",
            do="retire sets, or use another key",
        )
    return policy


def _check(measurements: Sequence[Measurements], administrator_arn: str | None, sealed: bool) -> None:
    if not measurements:
        raise PolicyError("no-measurements", "a key without measurements opens for nobody", expected="at least one set")
    for one in measurements:
        for index, value in one.pcrs().items():
            if not any(value):
                raise PolicyError(
                    "zero-pcr",
                    f"a zero PCR{index} would let any debug-mode enclave open data",
                    expected="a measured value",
                    do="build the image and use its lock",
                )
        if one.pcr2 == EMPTY_PCR2:
            raise PolicyError(
                "empty-pcr2",
                "PCR2 is the measurement of nothing: every image with one ramdisk has it",
                got=EMPTY_PCR2.hex(),
                expected="the measurement of an application ramdisk",
            )
    if not sealed and administrator_arn is None:
        raise PolicyError(
            "no-administrator",
            "an unsealed key needs a named administrator",
            expected="the ARN of the one role that may change the policy",
            do="name it, or seal the key",
        )


def _statement(sid: str, effect: str, principals: Any, actions: Sequence[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement = {"Sid": sid, "Effect": effect, "Principal": {"AWS": principals}, "Action": list(actions), "Resource": "*"}
    return statement if condition is None else {**statement, "Condition": condition}


def _condition_key(index: int) -> str:
    return "kms:RecipientAttestation:ImageSha384" if index == 0 else f"kms:RecipientAttestation:PCR{index}"


def _allow(number: int, one: Measurements, host_role_arn: str) -> dict[str, Any]:
    condition = {"StringEqualsIgnoreCase": {_condition_key(index): value.hex() for index, value in one.pcrs().items()}}
    return _statement(f"AttestedEnclave{number}", "Allow", host_role_arn, ATTESTED_ACTIONS, condition)


def _deny(index: int, measurements: Sequence[Measurements]) -> dict[str, Any]:
    """Negated operators match when the value is none of those listed, and when there is no document at all."""
    values = sorted({one.pcrs()[index].hex() for one in measurements})
    condition = {"StringNotEqualsIgnoreCase": {_condition_key(index): values}}
    return _statement(f"DenyUnlessPcr{index}", "Deny", "*", ATTESTED_ACTIONS, condition)
