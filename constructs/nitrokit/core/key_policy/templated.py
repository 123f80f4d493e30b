"""The policies that a key of a template can get: one for each way in which the template's conditions can turn out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nitrokit.core.intrinsics import NO_VALUE, Environment, alternatives, concrete
from nitrokit.core.key_policy.document import PolicyError

ENCLAVE_KEY = "nitrokit:EnclaveKey"
"""The entry in a resource's ``Metadata`` by which an ``EnclaveKey`` marks its key."""
MAX_ALTERNATIVES = 32
"""Ours: what can be read by people, and analysed in a moment."""


@dataclass(frozen=True)
class TemplatedPolicy:
    """``policy``: as it can be reasoned about (``concrete``); ``when``: the outcomes that bring it about, e.g. "Production, not Audit"; empty: all."""

    policy: Any
    when: str


def templated_policies(key_policy: Any, environment: Environment) -> tuple[TemplatedPolicy, ...]:
    """Every policy that a ``KeyPolicy`` property can become. Where it becomes nothing, KMS's default policy. Raises PolicyError where that are more than MAX_ALTERNATIVES."""
    found = list(islice(alternatives(key_policy), MAX_ALTERNATIVES + 1))
    if len(found) > MAX_ALTERNATIVES:
        raise PolicyError(
            "conditions",
            "the policy depends on too many conditions to tell each outcome",
            expected=f"at most {MAX_ALTERNATIVES} outcomes",
            do="write a policy for each environment, chosen by one condition",
        )
    return tuple(TemplatedPolicy(_given(policy, environment), ", ".join(outcomes)) for outcomes, policy in found)


def promises_attestation(resource: Mapping[str, Any]) -> bool:
    """Whether a template's key has an attestation key anywhere in its policy, or is an ``EnclaveKey``, whatever an aspect or an override has made of that policy."""
    policy = (resource.get("Properties") or {}).get("KeyPolicy")
    return ENCLAVE_KEY in (resource.get("Metadata") or {}) or "recipientattestation" in json.dumps(policy).lower()


def _given(policy: Any, environment: Environment) -> Any:
    return _default(environment) if policy in (None, NO_VALUE) else concrete(policy, environment)


def _default(environment: Environment) -> Mapping[str, Any]:
    """Source: KMS Developer Guide "Default key policy"."""
    root = f"arn:{environment.partition}:iam::{environment.account}:root"
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"}]}
