"""Every known way round an attestation condition: the mistake in CDK, the rule that fires, the attack on the local KMS, which works there and is denied under an EnclaveKey's policy."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.intrinsics import Environment, concrete
from nitrokit.core.key_policy import openings, policy_for
from nitrokit.core.measurements import Measurements, digest, pcr3, pcr4
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.emulation.local import LocalAws

ACCOUNT = "123456789012"
HOST, OWNER, ATTACKER = (f"arn:aws:iam::{ACCOUNT}:role/ways-{name}" for name in ("host", "owner", "attacker"))
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
INSTANCE = "i-0123456789abcdef0"
LOCKED, FOREIGN = (Measurements(digest([name]), digest([b"boot"]), digest([name, b"app"])) for name in (b"locked", b"foreign"))
KEY = "kms:RecipientAttestation:"
ATTESTED = {
    "Sid": "Attested", "Effect": "Allow", "Principal": {"AWS": HOST}, "Action": "kms:Decrypt", "Resource": "*",
    "Condition": {"StringEqualsIgnoreCase": {KEY + "ImageSha384": LOCKED.pcr0.hex()}},
}  # fmt: skip
OWNERS = {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": "kms:Encrypt", "Resource": "*"}
SPKI = rsa.generate_private_key(65537, 2048).public_key()
PUBLIC = SPKI.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Target:
    """A key in the local KMS, a ciphertext under it, and who attacks."""

    local: Any
    key_id: str
    ciphertext: bytes

    def kms(self, role_arn: str = ATTACKER) -> Any:
        return self.local.client("kms", role_arn=role_arn)

    def document(self, **changes: Any) -> dict[str, Any]:
        from nitrokit.emulation.nitro.nsm import EmulatedNsm

        enclave = {"module_id": f"{INSTANCE}-enc0123456789abcde", "measurements": FOREIGN, "role_arn": HOST, "debug": False, **changes}
        nsm = EmulatedNsm(**enclave, pki=self.local._pki, now=lambda: datetime.now(UTC))
        document = NsmClient(nsm.answer).attestation(public_key=PUBLIC)
        return {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}

    def own_key(self) -> str:
        """A key of the attacker's: anybody may encrypt under it."""
        policy = {"Statement": [_allow("kms:*"), _allow("kms:Encrypt", who="*")]}
        created = self.local.client("kms").create_key(Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True)
        return str(created["KeyMetadata"]["KeyId"])


def _decrypt(target: Target) -> None:
    target.kms().decrypt(CiphertextBlob=target.ciphertext)


def _re_encrypt(target: Target) -> None:
    moved = target.kms().re_encrypt(CiphertextBlob=target.ciphertext, DestinationKeyId=target.own_key())
    assert target.kms().decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"a secret"


def _grant(target: Target) -> None:
    """The grantee's own rights do not matter, nor those of who makes the grant."""
    target.kms().create_grant(KeyId=target.key_id, GranteePrincipal=OWNER, Operations=["Decrypt"])
    assert target.kms(OWNER).decrypt(CiphertextBlob=target.ciphertext)["Plaintext"] == b"a secret"


def _put_policy(target: Target) -> None:
    mine = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": ATTACKER}, "Action": "kms:*", "Resource": "*"}]}
    target.kms().put_key_policy(KeyId=target.key_id, PolicyName="default", Policy=json.dumps(mine))
    assert target.kms().decrypt(CiphertextBlob=target.ciphertext)["Plaintext"] == b"a secret"


def _replicate(target: Target) -> None:
    """With a policy of the attacker's choice."""
    target.kms().replicate_key(KeyId=target.key_id, ReplicaRegion="eu-west-1", Policy="{}")


def _decapsulate(target: Target) -> None:
    """moto makes no ML-KEM keys: what the local KMS decides is seen, not the answer."""
    with suppress(ClientError):
        target.kms().decapsulate(KeyId=target.key_id, SharedSecretCiphertextBlob=b"x" * 1088, EncapsulationAlgorithm="ML_KEM")
    decision = target.local.kms_decisions()[-1]
    assert decision["action"] == "kms:Decapsulate"
    if not decision["allowed"]:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": ""}}, "Decapsulate")


def _forge(target: Target) -> None:
    """The enclave takes it for the owner's: decrypting proves nothing about who wrote it."""
    forged = target.kms().encrypt(KeyId=target.key_id, Plaintext=b"forged")["CiphertextBlob"]
    answer = target.kms(HOST).decrypt(CiphertextBlob=forged, Recipient=target.document(measurements=LOCKED))
    assert answer["CiphertextForRecipient"]


def _tag(target: Target) -> None:
    target.kms().tag_resource(KeyId=target.key_id, Tags=[{"TagKey": "open", "TagValue": "yes"}])
    _decrypt(target)


def _rename(target: Target) -> None:
    target.kms().create_alias(AliasName=f"alias/open-{target.key_id}", TargetKeyId=target.key_id)
    _decrypt(target)


def _move_alias(target: Target) -> None:
    """The owner encrypts under the name that it knows, and the attacker reads."""
    name, mine = f"alias/data-{target.key_id}", target.own_key()
    target.kms().create_alias(AliasName=name, TargetKeyId=target.key_id)
    target.kms().update_alias(AliasName=name, TargetKeyId=mine)
    fooled = target.kms(OWNER).encrypt(KeyId=name, Plaintext=b"a secret")
    assert target.kms().decrypt(CiphertextBlob=fooled["CiphertextBlob"])["Plaintext"] == b"a secret"


def _debug(target: Target) -> None:
    target.kms(HOST).decrypt(CiphertextBlob=target.ciphertext, Recipient=target.document(debug=True))


def _allow(*actions: str, who: Any = ATTACKER, **more: Any) -> dict[str, Any]:
    return {"Sid": "Mistake", "Effect": "Allow", "Principal": {"AWS": who}, "Action": list(actions), "Resource": "*", **more}


def _attested(**values: str) -> dict[str, Any]:
    condition = {"StringEqualsIgnoreCase": {f"{KEY}{name}": value for name, value in values.items()}}
    return _allow("kms:Decrypt", who=HOST, Condition=condition)


@dataclass(frozen=True)
class Way:
    """One way round. ``beaten``: an EnclaveKey's Denies hold even against this very statement; else its policy simply has none like it, and only the rule can catch the mistake."""

    statements: tuple[dict[str, Any], ...]
    rules: tuple[str, ...]
    attack: Callable[[Target], None]
    beaten: bool = True


_NOT_DECRYPT = {"Sid": "Mistake", "Effect": "Allow", "Principal": {"AWS": ROOT}, "NotAction": "kms:Decrypt", "Resource": "*"}
_ALIASES = {"ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/open-*"}}
WAYS = {
    "the account's kms:*": Way((_allow("kms:*", who=ROOT),), ("iam-delegation", "wildcard-action"), _decrypt),
    "NotAction kms:Decrypt alone": Way((_NOT_DECRYPT,), ("not-action", "re-encrypt", "grant", "policy-change", "replication", "decapsulate"), _put_policy),
    "ReEncryptFrom": Way((_allow("kms:ReEncrypt*"),), ("re-encrypt",), _re_encrypt),
    "CreateGrant": Way((_allow("kms:CreateGrant"),), ("grant",), _grant),
    "PutKeyPolicy": Way((_allow("kms:PutKeyPolicy"),), ("policy-change",), _put_policy),
    "ReplicateKey": Way((_allow("kms:ReplicateKey"),), ("replication",), _replicate),
    "Decapsulate": Way((_allow("kms:Decapsulate"),), ("decapsulate",), _decapsulate),
    "Encrypt for anybody": Way((_allow("kms:Encrypt", "kms:GenerateDataKeyWithoutPlaintext", who="*"),), ("unauthenticated-ciphertext",), _forge, beaten=False),
    "wildcards of the console's administrators": Way((_allow("kms:Create*", "kms:Put*"),), ("wildcard-action", "grant", "policy-change"), _grant),
    "access by tag": Way((_allow("kms:Decrypt", Condition={"StringEquals": {"aws:ResourceTag/open": "yes"}}), _allow("kms:TagResource")), ("attribute-based", "unattested"), _tag),
    "access by alias": Way((_allow("kms:Decrypt", Condition=_ALIASES), _allow("kms:CreateAlias")), ("attribute-based", "unattested"), _rename),
    "a moved alias": Way((_allow("kms:CreateAlias", "kms:UpdateAlias"),), ("alias-move",), _move_alias),
    "a zero PCR0": Way((_attested(ImageSha384="00" * 48),), ("debug-enclave", "zero-value"), _debug),
    "PCR3 and PCR4 alone": Way((_attested(PCR3=pcr3(HOST).hex(), PCR4=pcr4(INSTANCE).hex()),), ("any-image",), _debug),
}  # fmt: skip


@pytest.fixture(scope="module")
def local():
    work = Path("/tmp") / f"nkw{os.getpid()}"
    work.mkdir()
    aws = LocalAws(work, environment={}, runner="process", note=lambda _: None)
    attacker = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}
    for arn in (HOST, OWNER, ATTACKER):  # moto's roles are one set for all tests of a process
        aws.create_role(arn.rpartition("/")[2])
    aws.client("iam").put_role_policy(RoleName="ways-attacker", PolicyName="everything", PolicyDocument=json.dumps(attacker))
    yield aws
    aws.close()
    shutil.rmtree(work, ignore_errors=True)


def _stack(folder):
    app = cdk.App(outdir=str(folder))
    return cdk.Stack(app, "S", env=cdk.Environment(account=ACCOUNT, region="us-east-1"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """An EnclaveKey's policy, as it is deployed."""
    from types import SimpleNamespace

    stack = _stack(tmp_path_factory.mktemp("ours"))
    image = SimpleNamespace(name="locked", reference_values=ReferenceValues(LOCKED))
    EnclaveKey(stack, "Key", images=[image], host_role=iam.Role.from_role_arn(stack, "Host", HOST), data_owners=[OWNER])
    (key,) = Template.from_stack(stack).find_resources("AWS::KMS::Key").values()
    return concrete(key["Properties"]["KeyPolicy"], Environment(ACCOUNT))


@pytest.fixture
def target(local):
    def make(policy, attack=None):
        replicated = attack is _replicate  # moto cannot read what it encrypts under multi-Region keys
        key = local.client("kms").create_key(Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True, MultiRegion=replicated)
        key_id = key["KeyMetadata"]["KeyId"]
        return Target(local, key_id, local.client("kms", role_arn=OWNER).encrypt(KeyId=key_id, Plaintext=b"a secret")["CiphertextBlob"])

    return make


def _with(policy, statements):
    return {**policy, "Statement": [*policy["Statement"], *statements]}


def _is_denied(attack, target):
    with pytest.raises(ClientError) as caught:
        attack(target)
    return caught.value.response["Error"]["Code"] == "AccessDeniedException"


CARELESS = {"Version": "2012-10-17", "Statement": [ATTESTED, OWNERS]}


@pytest.mark.parametrize("name", WAYS)
def test_the_rule_fires_on_the_mistake(name, tmp_path):
    stack = _stack(tmp_path)
    policy = _with(CARELESS, WAYS[name].statements)
    kms.CfnKey(stack, "Key", key_policy=policy, enable_key_rotation=True).apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    app = stack.node.root
    cdk.Validations.of(app).add_plugins(NitrokitChecks())
    with suppress(RuntimeError):  # mistakes of severity high or worse end the synthesis; the report is there either way
        app.synth()
    (report,) = [
        one
        for one in json.loads((tmp_path / "validation-report.json").read_text())["pluginReports"]
        if one["pluginName"] == "NitrokitChecks"
    ]
    assert {f"nitrokit/{rule}" for rule in WAYS[name].rules} <= {one["ruleName"] for one in report["violations"]}


@pytest.mark.parametrize("name", WAYS)
def test_the_attack_works_where_the_mistake_is_made(name, target):
    """Else the next test would prove nothing."""
    way = WAYS[name]
    way.attack(target(_with(CARELESS, way.statements), way.attack))


@pytest.mark.parametrize("name", WAYS)
def test_an_enclave_keys_policy_denies_the_attack(name, target, ours):
    way = WAYS[name]
    assert _is_denied(way.attack, target(ours, way.attack))
    if way.beaten:
        assert _is_denied(way.attack, target(_with(ours, way.statements), way.attack)), "a Deny holds against what somebody adds"


def test_the_locked_enclave_decrypts_under_all_of_them(target, ours):
    for policy in (CARELESS, ours):
        one = target(policy)
        answer = one.kms(HOST).decrypt(CiphertextBlob=one.ciphertext, Recipient=one.document(measurements=LOCKED))
        assert answer["CiphertextForRecipient"]
        assert _is_denied(lambda target: target.kms(HOST).decrypt(CiphertextBlob=target.ciphertext, Recipient=target.document()), one)


def test_a_grant_that_is_there_already_opens_only_where_nothing_denies(target, ours):
    """Made before the policy was, or by whoever got round it: by moto's own hand."""
    from moto.kms.models import kms_backends

    for policy, denied in ((CARELESS, False), (ours, True)):
        one = target(policy)
        key = kms_backends[ACCOUNT][one.local.region].describe_key(one.key_id)
        key.add_grant("old", ATTACKER, ["Decrypt"], constraints={}, retiring_principal="")
        if denied:
            assert _is_denied(_decrypt, one)
        else:
            _decrypt(one)


@pytest.mark.parametrize(("days", "opens"), [(1, True), (-1, False)])
def test_kms_itself_retires_a_set_at_its_date(target, days, opens):
    date = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    rollover = ReferenceValues(FOREIGN, (RetiringSet(LOCKED, date),))
    one = target(policy_for(openings(HOST, rollover), account=ACCOUNT, data_owners=[(OWNER, {})]))

    def decrypt(target):
        target.kms(HOST).decrypt(CiphertextBlob=target.ciphertext, Recipient=target.document(measurements=LOCKED))

    if opens:
        decrypt(one)
    else:
        assert _is_denied(decrypt, one)
