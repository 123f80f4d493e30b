"""What every EnclaveKey is to the CDK, owned or imported: an ``IKey`` whose unconditioned grants are refused, each with the reason and the alternative."""

from __future__ import annotations

from typing import Any, NoReturn

import jsii
from aws_cdk import RemovalPolicy, Resource
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.interfaces.aws_kms import KeyReference

from nitrokit.cdk.known import is_token
from nitrokit.core.key_policy import PolicyError

_FIX = "key.grants.decrypt(role, image) for enclaves, key.grants.encrypt(owner) for data owners"


def _refuse(method: str, why: str) -> NoReturn:
    raise PolicyError(
        "unconditioned-grant", f"{method} is refused on an EnclaveKey: {why}", expected="a grant bound to measurements", do=_FIX
    )


@jsii.implements(kms.IKey)
class AttestedKey(Resource):
    """A key by its ARN. CDK integrations that only name the key (aliases, environment variables, policies of other resources) take it as any ``IKey``.

    Services that encrypt by themselves (S3, SQS, EBS …) cannot use it: they call GenerateDataKey or Decrypt for their caller, without an attestation document. The rule
    ``nitrokit/service-encryption`` finds such a use at synthesis; a grant that an integration asks for is refused here with PolicyError.
    """

    @property
    @jsii.member(jsii_name="keyArn")
    def key_arn(self) -> str:
        """The key's ARN."""
        raise NotImplementedError

    @property
    @jsii.member(jsii_name="keyId")
    def key_id(self) -> str:
        """The key's id, without the rest of the ARN."""
        raise NotImplementedError

    @property
    @jsii.member(jsii_name="keyRef")
    def key_ref(self) -> KeyReference:
        """What L1 resources take."""
        return KeyReference(key_arn=self.key_arn, key_id=self.key_id)

    @jsii.member(jsii_name="addAlias")
    def add_alias(self, alias: str) -> kms.Alias:
        """An alias, with or without ``alias/``. It stays when the stack goes: a sealed key's alias cannot be moved or deleted, so that nobody makes data owners encrypt under another key."""
        name = alias.removeprefix("alias/")
        id = sum(child.node.id.startswith("Alias") for child in self.node.children) if is_token(name) else name
        return kms.Alias(self, f"Alias{id}", alias_name=f"alias/{name}", target_key=self, removal_policy=RemovalPolicy.RETAIN)

    @jsii.member(jsii_name="addToResourcePolicy")
    def add_to_resource_policy(self, statement: iam.PolicyStatement, allow_no_op: bool | None = None) -> iam.AddToResourcePolicyResult:
        """Refused: the policy is written from measurements alone."""
        _refuse("addToResourcePolicy", "its policy is written from measurements alone, and a foreign statement could go round them")

    @jsii.member(jsii_name="grant")
    def grant(self, grantee: iam.IGrantable, *actions: str) -> iam.Grant:
        """Refused: no condition goes with it."""
        _refuse(f"grant({', '.join(actions)})", "no attestation condition goes with it, and the key denies it to everybody")

    @jsii.member(jsii_name="grantDecrypt")
    def grant_decrypt(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: decrypting without attestation is what the key is there to prevent."""
        _refuse("grantDecrypt", "decrypting without attestation is what it is there to prevent")

    @jsii.member(jsii_name="grantEncrypt")
    def grant_encrypt(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: it brings ReEncrypt and GenerateDataKey."""
        _refuse(
            "grantEncrypt", "it brings kms:ReEncrypt*, which goes round attestation, and kms:GenerateDataKey*, which gives plaintext keys"
        )

    @jsii.member(jsii_name="grantEncryptDecrypt")
    def grant_encrypt_decrypt(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused as grant_encrypt and grant_decrypt are."""
        _refuse("grantEncryptDecrypt", "a service that encrypts and decrypts by itself has no attestation document")

    def _other_use(self, method: str) -> NoReturn:
        _refuse(method, "it is a symmetric key that encrypts and decrypts; it neither signs nor makes MACs")

    @jsii.member(jsii_name="grantGenerateMac")
    def grant_generate_mac(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: not that kind of key."""
        self._other_use("grantGenerateMac")

    @jsii.member(jsii_name="grantVerifyMac")
    def grant_verify_mac(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: not that kind of key."""
        self._other_use("grantVerifyMac")

    @jsii.member(jsii_name="grantSign")
    def grant_sign(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: not that kind of key."""
        self._other_use("grantSign")

    @jsii.member(jsii_name="grantVerify")
    def grant_verify(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: not that kind of key."""
        self._other_use("grantVerify")

    @jsii.member(jsii_name="grantSignVerify")
    def grant_sign_verify(self, grantee: iam.IGrantable) -> iam.Grant:
        """Refused: not that kind of key."""
        self._other_use("grantSignVerify")


class ImportedKey(AttestedKey):
    """A key that another stack owns. Its policy cannot be changed from here: ``grants`` write the principals' side alone, with the same conditions."""

    def __init__(self, scope: Any, id: str, *, key_arn: str, key_id: str) -> None:
        super().__init__(scope, id, environment_from_arn=key_arn)
        self._arn, self._id = key_arn, key_id

    @property
    @jsii.member(jsii_name="keyArn")
    def key_arn(self) -> str:
        """The key's ARN."""
        return self._arn

    @property
    @jsii.member(jsii_name="keyId")
    def key_id(self) -> str:
        """The key's id."""
        return self._id
