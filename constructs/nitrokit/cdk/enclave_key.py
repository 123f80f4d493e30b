"""EnclaveKey: a KMS key that opens for attested enclaves alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jsii
from aws_cdk import Acknowledgment, Aws, CfnDeletionPolicy, Fn, IAnyProducer, IResolveContext, Lazy, Stack, Token, Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct, IValidation

from nitrokit.cdk.attested_key import AttestedKey, ImportedKey
from nitrokit.cdk.enclave_key_grants import EnclaveKeyGrants, KeyPolicy, MeasuredImage
from nitrokit.cdk.known import is_token, need, need_each, need_known, need_type
from nitrokit.core.intrinsics import Environment, concrete, longest
from nitrokit.core.key_policy import Finding, PolicyError, Severity, analyze_key_policy, check_size
from nitrokit.core.key_policy.templated import ENCLAVE_KEY

_NO_ARN = re.compile(r"(?![0-9]{12}$)[\w\s+=,.@/-]*")
"""A name. What stands for more than one principal, the policy refuses."""
_LONGEST_DESCRIPTION = 8192
"""Characters (KMS API Reference "CreateKey", Description)."""
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9a-f-]+")


class EnclaveKey(AttestedKey):
    """A symmetric KMS key whose policy takes its PCR conditions from images' locks. Raises PolicyError where the policy would not hold what it promises.

    - ``images``: enclaves of any of these may decrypt on ``host_role``: one statement for each set of measurements, those that retire in a rollover with their date. Default: none
      yet; ``key.grants.decrypt(role, image)`` adds more. A key without any does not synthesise.
    - ``host_role``: the role of the parent instances; nobody else's credentials work, attested or not. Needed with ``images``.
    - ``attest_host_role``: the document must also prove that the parent has this role (PCR3). Default False: whoever has the role's credentials may carry the document of an
      accepted enclave that runs elsewhere, and still learns nothing, since the answer is encrypted for the enclave. The role needs a name, or a small Lambda measures its ARN.
    - ``data_owners``: ARNs that may encrypt, from any account (their own account must allow it too). Default: none; ``key.grants.encrypt(owner)`` adds more.
    - ``sealed``: nobody may ever change the policy or move an alias, not even the account's root. Default True; a rollover then needs a new key. When False, ``administrator_arn``
      must be named and alone may change it: whoever that is could open everything. For changes by ``cdk deploy`` it is ``EnclaveKey.deployment_role_arn(self)``.
    - ``multi_region``: default False; True is refused: policy, grants and aliases of a replica are its own; create an EnclaveKey in each Region.
    - ``description``: default: names the images.
    - The key stays when the stack goes (deletion would destroy data), but not when the deployment that makes it fails: KMS then deletes it after 30 days, until when that can be undone
      (CloudFormation User Guide "DeletionPolicy attribute", RetainExceptOnCreate). It rotates every year.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        images: Sequence[MeasuredImage] | None = None,
        host_role: iam.IRole | None = None,
        attest_host_role: bool = False,
        data_owners: Sequence[str] = (),
        sealed: bool = True,
        administrator_arn: str | None = None,
        multi_region: bool = False,
        description: str | None = None,
    ) -> None:
        super().__init__(scope, id)
        need_type((list, tuple), images=images, data_owners=data_owners)
        if is_token(data_owners):
            need_known(data_owners=data_owners)
        need(bool, attest_host_role=attest_host_role, sealed=sealed, multi_region=multi_region)
        need_type(str, administrator_arn=administrator_arn, description=description)
        _check_texts(administrator_arn, description)
        _check(images, host_role, sealed, administrator_arn, multi_region)
        need_each(MeasuredImage, images=images or ())
        self._policy = KeyPolicy(Aws.ACCOUNT_ID, Aws.PARTITION, administrator_arn, sealed)
        names = ", ".join(image.name for image in images or ())
        self._key = kms.CfnKey(
            self,
            "Resource",
            key_policy=Lazy.uncached_any(_Producer(self._policy)),
            description=description or f"Opens for the attested enclaves {names} alone".replace("  ", " "),
            enable_key_rotation=True,
            # The check wants the caller to be able to change the policy again, which nobody is, or somebody else.
            bypass_policy_lockout_safety_check=sealed or not self._is_deployment_role(administrator_arn),
        )
        # Whatever an aspect or an override makes of its policy, NitrokitChecks knows it for a key that promises attestation.
        self._key.add_metadata(ENCLAVE_KEY, value=True)
        self._arn = self._key.attr_arn
        self._key.cfn_options.deletion_policy = CfnDeletionPolicy.RETAIN_EXCEPT_ON_CREATE
        self._key.cfn_options.update_replace_policy = CfnDeletionPolicy.RETAIN
        if not sealed:
            reason = f"sealed=False: {administrator_arn} alone may change the policy, knowingly"
            meant = [Acknowledgment(id=f"nitrokit/{id}", reason=reason) for id in ("policy-change", "alias-move")]
            Validations.of(self._key).acknowledge(*meant)
        if images and host_role is not None:
            self.grants.decrypt(host_role, *images, attest_role=attest_host_role)
        for owner in data_owners:
            self.grants.encrypt(iam.ArnPrincipal(owner))
        self.node.add_validation(_Check(self))

    @classmethod
    def from_key_arn(cls, scope: Construct, id: str, key_arn: str) -> ImportedEnclaveKey:
        """A key that another stack owns, by its ARN. Raises PolicyError for another ARN, an alias's (it is no name in a policy, and may be moved) or a multi-Region key's."""
        need(str, key_arn=key_arn)
        if not Token.is_unresolved(key_arn):
            _check_arn(key_arn)
        return ImportedEnclaveKey(scope, id, key_arn=key_arn, key_id=Fn.select(1, Fn.split("/", key_arn)))

    @staticmethod
    def deployment_role_arn(scope: Construct) -> str:
        """The role under which CloudFormation deploys the stack (modern bootstrap): the administrator of keys whose policy ``cdk deploy`` shall change. Raises PolicyError."""
        try:
            arn = getattr(Stack.of(scope).synthesizer, "cloud_formation_execution_role_arn", None)
        except RuntimeError:  # a synthesizer made in Python: jsii gives the one that was made, not its copy that the stack bound
            arn = None
        if arn is None:
            raise PolicyError(
                "no-deployment-role",
                "the stack's synthesizer has no deployment role, or was made by the app and does not tell it",
                do="name the administrator's ARN, or use modern bootstrap, its qualifier by the context @aws-cdk/core:bootstrapQualifier",
            )
        return Fn.sub(arn) if "${AWS::" in arn else str(arn)

    @property
    @jsii.member(jsii_name="keyArn")
    def key_arn(self) -> str:
        """The key's ARN."""
        return self._arn

    @property
    @jsii.member(jsii_name="keyId")
    def key_id(self) -> str:
        """The key's id."""
        return self._key.ref

    @property
    def grants(self) -> EnclaveKeyGrants:
        """Who may decrypt with which image, and who may encrypt."""
        return EnclaveKeyGrants.from_key(self, self._policy, self._key)

    def findings(self) -> list[Finding]:
        """What ``analyze_key_policy`` finds in the finished policy, but that the named administrator of an open key may change it. Raises PolicyError for one that is too large."""
        stack = Stack.of(self)
        self._policy.document()  # raises what _Producer keeps to itself
        # The resource's, which an aspect may have changed.
        policy = stack.resolve(self._key.key_policy)
        check_size(longest(policy), sets=len(self._policy.openings))
        account = Environment().account if Token.is_unresolved(stack.account) else stack.account
        found = analyze_key_policy(concrete(policy, Environment(account)), account=account)
        return [one for one in found if self._policy.sealed or one.statement != "ChangePolicy"]

    def _is_deployment_role(self, arn: str | None) -> bool:
        stack = Stack.of(self)
        try:
            return arn is not None and stack.resolve(arn) == stack.resolve(self.deployment_role_arn(self))
        except PolicyError:
            return False


class ImportedEnclaveKey(ImportedKey):
    """What ``EnclaveKey.from_key_arn`` gives."""

    @property
    def grants(self) -> EnclaveKeyGrants:
        """The principals' side: for roles and owners of another account, which need it beside the key's policy."""
        return EnclaveKeyGrants.from_key(self)


@jsii.implements(IAnyProducer)
class _Producer:
    """The policy, once all grants are known."""

    def __init__(self, policy: KeyPolicy) -> None:
        self._policy = policy

    @jsii.member(jsii_name="produce")
    def produce(self, context: IResolveContext) -> Any:
        try:
            return self._policy.document()
        except PolicyError as error:
            # _Check tells it, at the key's path: raised here it would come wrapped, once for each token around it. KMS takes no such statement, should validation be skipped.
            return {"Version": "2012-10-17", "Statement": [{"Sid": error.code}]}


@jsii.implements(IValidation)
class _Check:
    """A policy with a way round does not synthesise."""

    def __init__(self, key: EnclaveKey) -> None:
        self._key = key

    @jsii.member(jsii_name="validate")
    def validate(self) -> list[str]:
        try:
            found = self._key.findings()
        except PolicyError as error:
            return [str(error)]
        return [f"{one.id}: {one.statement} {one.reason}; do: {one.fix}" for one in found if one.severity >= Severity.MEDIUM]


def _check(
    images: Sequence[MeasuredImage] | None, host_role: iam.IRole | None, sealed: bool, administrator_arn: str | None, multi_region: bool
) -> None:
    if multi_region:
        raise PolicyError(
            "multi-region",
            "an EnclaveKey is of one Region: policy, grants and aliases of a replica are its own, and whoever may replicate could open everything there",
            do="create an EnclaveKey in each Region",
        )
    if images is not None and not images:
        raise PolicyError("no-measurements", "a key without measurements opens for nobody", expected="at least one set")
    if (images is None) != (host_role is None):
        raise PolicyError(
            "no-host-role", "images and host_role go together", expected="both, or neither and key.grants.decrypt(role, image)"
        )
    if not sealed and administrator_arn is None:
        raise PolicyError(
            "no-administrator",
            "an unsealed key needs a named administrator",
            expected="the ARN of the one role that may change the policy",
            do="name it (EnclaveKey.deployment_role_arn(self) for `cdk deploy`), or seal the key",
        )


def _check_texts(administrator_arn: str | None, description: str | None) -> None:
    if administrator_arn is not None and _NO_ARN.fullmatch(administrator_arn):
        raise ValueError(f"administrator_arn is {administrator_arn!r:.160}; expected the ARN of one role")
    if description is not None and not is_token(description) and len(description) > _LONGEST_DESCRIPTION:
        raise ValueError(f"description has {len(description)} characters; expected at most {_LONGEST_DESCRIPTION}")


def _check_arn(key_arn: str) -> None:
    what = None
    if ":alias/" in key_arn:
        what = "an alias is no name for a key in a policy, and who may move it chooses the key"
    elif ":key/mrk-" in key_arn:
        what = "a multi-Region key has a policy for each replica, and whoever may replicate it could open everything there"
    elif not _KEY_ARN.fullmatch(key_arn):
        what = "not the ARN of a KMS key"
    if what is not None:
        raise PolicyError("key-arn", what, got=key_arn[:160], expected="arn:aws:kms:<region>:<account>:key/<id>", do="name the key itself")
