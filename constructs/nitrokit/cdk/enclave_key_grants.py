"""EnclaveKeyGrants: who may decrypt with which image, and who may encrypt. A facade (aws-cdk's design guideline "Facades and traits"): ``key.grants``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

import jsii
from aws_cdk import Acknowledgment, Aws, Token, Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.interfaces import ResourceEnvironment

from nitrokit.cdk.attested_key import AttestedKey
from nitrokit.cdk.measured_role import pcr3_of
from nitrokit.cdk.wildcards import acknowledge_wildcards
from nitrokit.core.key_policy import ATTESTED_ACTIONS, OWNER_ACTIONS, Opening, PolicyError, openings, policy_for
from nitrokit.core.reference_values import ReferenceValues

_NAME = re.compile(r"[0-9]{12}|arn:aws[a-z-]*:(?:iam|sts)::[0-9]{12}:\S+")

_TOGETHER = 70
"""Data owners of one statement, which must fit into one parameter of the guard's (nitrokit.cdk.monitor_settings)."""


class MeasuredImage(Protocol):
    """What a key needs of an image: ``EnclaveImage`` has it."""

    @property
    def name(self) -> str: ...

    @property
    def reference_values(self) -> ReferenceValues: ...


@dataclass
class KeyPolicy:
    """A key's policy while the tree is built: who may open, who may encrypt."""

    account: str
    partition: str
    administrator_arn: str | None
    sealed: bool
    openings: list[Opening] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    conditional_owners: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The policy. Raises PolicyError."""
        plain: list[tuple[Any, Mapping[str, Any]]] = [
            (self.owners[start : start + _TOGETHER], {}) for start in range(0, len(self.owners), _TOGETHER)
        ]
        return policy_for(
            self.openings,
            account=self.account,
            partition=self.partition,
            data_owners=[*plain, *self.conditional_owners],
            administrator_arn=self.administrator_arn,
            sealed=self.sealed,
        )


class EnclaveKeyGrants:
    """Grants on an EnclaveKey, each bound to measurements or to encryption alone. Use ``key.grants``, or ``EnclaveKeyGrants.from_key``.

    On an owned key they go into the key's policy; a principal of another account also gets its own side, which KMS demands there. That names all keys of the key's account and Region: the
    key's id is not known there before it is deployed. ``EnclaveKey.from_key_arn(…).grants`` names it alone. On such an imported key they write the principal's side alone: the key's
    policy is another stack's.
    """

    def __init__(self, key: AttestedKey, policy: KeyPolicy | None, resource: kms.CfnKey | None) -> None:
        self._key = key
        self._policy = policy
        self._resource = resource

    @classmethod
    def from_key(cls, key: AttestedKey, policy: KeyPolicy | None = None, resource: kms.CfnKey | None = None) -> EnclaveKeyGrants:
        """The grants of a key; without ``policy`` those of an imported one."""
        return cls(key, policy, resource)

    def decrypt(self, grantee: iam.IGrantable, *images: MeasuredImage, attest_role: bool = False) -> iam.Grant:
        """Enclaves of any of ``images``, current and retiring sets, may decrypt on parents with the role ``grantee``.

        ``attest_role``: only where the document proves that role (PCR3). Raises PolicyError for no image, for everybody, a service or another kind of principal.
        """
        if not images:
            raise PolicyError("no-measurements", "a grant without an image opens for nobody", expected="at least one image")
        principal, condition = _principal(grantee)
        pcr3 = pcr3_of(self._key, grantee) if attest_role else None
        found = [one for image in images for one in openings(principal, image.reference_values, pcr3=pcr3, condition=condition)]
        if self._policy is not None:
            self._policy.openings += found
        return _combined([self._grant(grantee, ATTESTED_ACTIONS, one.conditions()) for one in found])

    def encrypt(self, owner: iam.IGrantable) -> iam.Grant:
        """``owner`` may encrypt under the key, and see that it exists. Raises PolicyError for everybody (an organisation, by a condition, is allowed) or a service."""
        principal, condition = _principal(owner, anybody_if=True)
        if self._policy is not None and condition:
            self._policy.conditional_owners.append((principal, condition))
        elif self._policy is not None:
            self._policy.owners.append(principal)
        if self._resource is not None and principal == "*":
            reason = f"data owners are known by a condition: {dict(condition)}"
            Validations.of(self._resource).acknowledge(Acknowledgment(id="nitrokit/unauthenticated-ciphertext", reason=reason))
        return self._grant(owner, OWNER_ACTIONS, condition)

    def _grant(self, grantee: iam.IGrantable, actions: tuple[str, ...], conditions: Mapping[str, Mapping[str, Any]]) -> iam.Grant:
        if self._policy is None or self._resource is None:
            return self._on_principal(grantee, self._key.key_arn, actions, conditions)
        granted = iam.Grant.add_statement_to_resource_policy(
            resource=_Door(self._key, self._resource),
            statement=iam.PolicyStatement(
                actions=list(actions), resources=["*"], principals=[grantee.grant_principal], conditions=dict(conditions)
            ),
            grantee=grantee,
            actions=list(actions),
            resource_arns=["*"],
        )
        return granted.combine(self._on_foreign(grantee, actions, conditions)) if self._is_foreign(grantee) else granted

    def _on_foreign(self, grantee: iam.IGrantable, actions: tuple[str, ...], conditions: Mapping[str, Mapping[str, Any]]) -> iam.Grant:
        """All keys of this one's account and Region: its id is not known in a stack of another account, and its policy decides as well."""
        region, account = ("*" if Token.is_unresolved(one) else one for one in (self._key.env.region, self._key.env.account))
        keys = f"arn:{Aws.PARTITION}:kms:{region}:{account}:key/*"
        reason = "the key's id is not known in another account; the policy of each key there must name this principal too, and the EnclaveKey's alone does"
        acknowledge_wildcards(grantee.grant_principal, keys, reason=reason)
        return self._on_principal(grantee, keys, actions, conditions)

    def _on_principal(
        self, grantee: iam.IGrantable, arn: str, actions: tuple[str, ...], conditions: Mapping[str, Mapping[str, Any]]
    ) -> iam.Grant:
        return iam.Grant.add_to_principal(grantee=grantee, actions=list(actions), resource_arns=[arn], conditions=conditions)

    def _is_foreign(self, grantee: iam.IGrantable) -> bool:
        theirs, ours = grantee.grant_principal.principal_account, self._key.env.account
        return theirs not in (None, ours) and not (Token.is_unresolved(theirs) and Token.is_unresolved(ours))


@jsii.implements(iam.IResourceWithPolicyV2)
class _Door:
    """Lets ``iam.Grant`` know that the statement is in the key's policy: it is written there by us, from the openings."""

    def __init__(self, key: AttestedKey, resource: kms.CfnKey) -> None:
        self._key = key
        self._resource = resource

    @property
    @jsii.member(jsii_name="env")
    def env(self) -> ResourceEnvironment:
        return self._key.env

    @jsii.member(jsii_name="addToResourcePolicy")
    def add_to_resource_policy(self, statement: iam.PolicyStatement) -> iam.AddToResourcePolicyResult:
        return iam.AddToResourcePolicyResult(statement_added=True, policy_dependable=self._resource)


def _combined(grants: list[iam.Grant]) -> iam.Grant:
    return reduce(lambda one, other: one.combine(other), grants)


def _principal(grantee: iam.IGrantable, *, anybody_if: bool = False) -> tuple[str, Mapping[str, Any]]:
    """The one ARN, and the conditions that go with it. ``anybody_if``: everybody is allowed where there are conditions."""
    if not hasattr(grantee, "grant_principal"):
        raise TypeError(f"{type(grantee).__name__} is no principal; expected an IAM role, e.g. host.role or Role.from_role_arn(…)")
    fragment = grantee.grant_principal.policy_fragment
    names = fragment.principal_json.get("AWS", [])
    is_anybody = names == ["*"] and anybody_if and bool(fragment.conditions)
    if set(fragment.principal_json) != {"AWS"} or len(names) != 1 or not (is_anybody or _is_one(names[0])):
        raise PolicyError(
            "grantee",
            "this principal cannot be granted anything on an EnclaveKey",
            got=str(dict(fragment.principal_json))[:160],
            expected="one role, user or account",
            do="name the parent instances' role, or the data owner",
        )
    return names[0], fragment.conditions


def _is_one(name: str) -> bool:
    """Whether a key policy takes the name: no wildcards (IAM User Guide "AWS JSON policy elements: Principal"), and no unique id, which KMS does not resolve."""
    return not set("*?") & set(name) and (Token.is_unresolved(name) or _NAME.fullmatch(name) is not None)
