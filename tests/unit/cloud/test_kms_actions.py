"""The five attested KMS actions, from an app's call by the endpoint in an enclave to the local KMS, which demands the document, and back."""

import json
import threading

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.measurements import Measurements, digest
from nitrokit.emulation.cloud.kms import _RECIPIENT
from nitrokit.runtime import client, endpoint
from nitrokit.runtime.kms import ACTIONS, RecipientKms

HOST = "arn:aws:iam::123456789012:role/host"
OTHER = Measurements(digest([b"x"]), digest([b"y"]), digest([b"z"]))


@pytest.fixture(scope="module")
def owner(local):
    return local.create_role("kms-actions-owner")


@pytest.fixture(scope="module", autouse=True)
def random_policy(local):
    """The host's role may have random bytes made, which is IAM's to allow: no key's policy is asked (KMS Developer Guide, "GenerateRandom")."""
    iam = local.client("iam")
    iam.create_role(RoleName="host", AssumeRolePolicyDocument="{}")
    allow = {"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"}
    iam.put_role_policy(RoleName="host", PolicyName="random", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))


def _create_key(local, measurements, owner, **arguments):
    policy = build_key_policy(measurements=[measurements], host_role_arn=HOST, account=local.account, data_owner_arns=[owner])
    policy["Statement"].append({"Effect": "Allow", "Principal": {"AWS": owner}, "Action": "kms:GetPublicKey", "Resource": "*"})
    key = local.client("kms").create_key(Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True, **arguments)
    return key["KeyMetadata"]["Arn"]


@pytest.fixture(scope="module")
def key(local, measurements, owner):
    return _create_key(local, measurements, owner)


@pytest.fixture(scope="module")
def agreement_key(local, measurements, owner):
    return _create_key(local, measurements, owner, KeyUsage="KEY_AGREEMENT", KeySpec="ECC_NIST_P384")


@pytest.fixture
def credentials(local):
    keys = local._cloud.identities.for_role(HOST, "enclave")
    return {"access_key_id": keys.access_key_id, "secret_access_key": keys.secret_access_key, "session_token": keys.session_token}


@pytest.fixture
def enclave(local, nsm, credentials, monkeypatch):
    """An app's Kms in an enclave of the given measurements."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", local._cloud.endpoint_url)

    def start(*, region=local.region, cache=None, **changes):
        for name, value in endpoint.start(nsm(**changes)).items():
            monkeypatch.setenv(name, value)
        return client.Kms(region, credentials, cache=cache)

    return start


def _refusal(call, *arguments, **named):
    with pytest.raises(client.EndpointError) as caught:
        call(*arguments, **named)
    return caught.value.remote_code


def test_decrypt(local, owner, key, enclave):
    context = {"purpose": "test"}
    ciphertext = local.client("kms", role_arn=owner).encrypt(KeyId=key, Plaintext=b"a secret", EncryptionContext=context)["CiphertextBlob"]
    kms = enclave()
    assert kms.decrypt(ciphertext, key, EncryptionContext=context) == b"a secret"
    assert _refusal(kms.decrypt, ciphertext, key) == "InvalidCiphertextException"


@pytest.mark.parametrize(("options", "size"), [({}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 100}, 100)])
def test_generate_data_key(key, enclave, options, size):
    kms = enclave()
    made = kms.generate_data_key(key, **options)
    assert (len(made.plaintext), made.key_id) == (size, key)
    assert kms.decrypt(made.ciphertext, key) == made.plaintext


@pytest.mark.parametrize("spec", ["ECC_NIST_P384", "RSA_2048", "ECC_NIST_EDWARDS25519"])
def test_generate_data_key_pair(key, enclave, spec):
    kms = enclave()
    made = kms.generate_data_key_pair(key, spec)
    private = serialization.load_der_private_key(made.private_key, None)
    public = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (public, made.key_id) == (made.public_key, key)
    assert kms.decrypt(made.private_key_ciphertext, key) == made.private_key


def test_generate_random(enclave):
    kms = enclave(cache={"max_age": 60})
    one, other = kms.generate_random(64), kms.generate_random(64)
    assert len(one) == len(other) == 64
    assert one != other, "never kept, whatever the app says"
    request = {"region": "us-east-1", "credentials": {"access_key_id": "a", "secret_access_key": "b"}, "parameters": {"NumberOfBytes": 8}}
    with pytest.raises(client.EndpointError) as caught:
        client._post("/v1/kms/generate_random", {**request, "cache": {"max_age": 60}})
    assert caught.value.remote_code == "usage/kms-cache"


def test_random_bytes_need_a_permission_of_iam(local, owner):
    with pytest.raises(ClientError) as caught:
        local.client("kms", role_arn=owner).generate_random(NumberOfBytes=8)
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"
    assert "identity-based" in str(caught.value)


def test_a_ciphertext_of_another_key_than_is_named(local, owner, key, enclave, measurements):
    other = _create_key(local, measurements, owner)
    ciphertext = local.client("kms", role_arn=owner).encrypt(KeyId=other, Plaintext=b"a secret")["CiphertextBlob"]
    assert _refusal(enclave().decrypt, ciphertext, key) == "IncorrectKeyException"
    assert _refusal(enclave().decrypt, b"garbage", key) == "InvalidCiphertextException"


def test_each_request_is_signed_with_its_own_credentials(local, owner, key, enclave, credentials):
    ciphertext = local.client("kms", role_arn=owner).encrypt(KeyId=key, Plaintext=b"a secret")["CiphertextBlob"]
    assert enclave().decrypt(ciphertext, key) == b"a secret"
    wrong = client.Kms(local.region, {**credentials, "secret_access_key": "wrong"})
    assert _refusal(wrong.decrypt, ciphertext, key) == "InvalidSignatureException"


def test_derive_shared_secret(local, owner, agreement_key, enclave):
    ours = ec.generate_private_key(ec.SECP384R1())
    spki = ours.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    theirs = serialization.load_der_public_key(local.client("kms", role_arn=owner).get_public_key(KeyId=agreement_key)["PublicKey"])
    assert isinstance(theirs, ec.EllipticCurvePublicKey)
    kms = enclave()
    assert kms.derive_shared_secret(agreement_key, spki) == ours.exchange(ec.ECDH(), theirs)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    wrong = other.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert _refusal(kms.derive_shared_secret, agreement_key, wrong) == "ValidationException"


@pytest.fixture
def calls(key, agreement_key):
    """Each action that needs a key, as boto3 takes it."""
    spki = ec.generate_private_key(ec.SECP384R1()).public_key()
    public = spki.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "generate_data_key": {"KeyId": key, "KeySpec": "AES_256"},
        "generate_data_key_pair": {"KeyId": key, "KeyPairSpec": "ECC_NIST_P256"},
        "derive_shared_secret": {"KeyId": agreement_key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public},
    }


def test_another_image_a_debug_enclave_and_the_parent_itself_get_nothing(local, enclave, calls, nsm):
    for changes in ({"measurements": OTHER}, {"debug": True}):
        kms = enclave(**changes)
        assert _refusal(kms.generate_data_key, calls["generate_data_key"]["KeyId"]) == "AccessDeniedException"
        assert _refusal(kms.generate_data_key_pair, calls["generate_data_key_pair"]["KeyId"]) == "AccessDeniedException"
        derive = calls["derive_shared_secret"]
        assert _refusal(kms.derive_shared_secret, derive["KeyId"], derive["PublicKey"]) == "AccessDeniedException"
    for action, parameters in calls.items():
        with pytest.raises(ClientError) as caught:
            getattr(local.client("kms", role_arn=HOST), action)(**parameters)
        assert caught.value.response["Error"]["Code"] == "AccessDeniedException", action
    for action in ("generate_random", *calls):
        with pytest.raises(ClientError) as caught:
            recipient = {"AttestationDocument": b"no document", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
            getattr(local.client("kms", role_arn=HOST), action)(**calls.get(action, {"NumberOfBytes": 8}), Recipient=recipient)
        assert caught.value.response["Error"]["Code"] == "ValidationException", action


def test_answers_have_the_shape_of_botocores_model_the_plaintext_is_null_and_the_message_is_indefinite_ber(local, calls, nsm):
    rsa_key = rsa.generate_private_key(65537, 2048)
    spki = rsa_key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    document = nsm().attestation(public_key=spki)
    model = botocore.session.Session().get_service_model("kms")
    raw: dict[str, dict[str, object]] = {}
    session = local.client("kms", role_arn=HOST)
    session.meta.events.register(
        "after-call.kms", lambda http_response, model, **_: raw.__setitem__(model.name, json.loads(http_response.content))
    )
    for action, parameters in {**calls, "generate_random": {"NumberOfBytes": 8}}.items():
        recipient = {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
        answer = getattr(session, action)(**parameters, Recipient=recipient)
        name = session.meta.method_to_api_mapping[action]
        assert set(raw[name]) <= set(model.operation_model(name).output_shape.members), name
        assert raw[name][_RECIPIENT[name]] is None
        message = answer["CiphertextForRecipient"]
        assert (message[:2], message[-2:]) == (b"\x30\x80", b"\0\0")
        assert open_enveloped_data(message, rsa_key)


def test_the_clients_table_of_actions_is_botocores():
    model = botocore.session.Session().get_service_model("kms")
    operations = {botocore.xform_name(name): model.operation_model(name) for name in model.operation_names}
    recipients = {name for name, one in operations.items() if one.input_shape and "Recipient" in one.input_shape.members}
    assert set(ACTIONS) == recipients, "every action that takes a Recipient, and no other"
    for name, (enveloped, parameters) in ACTIONS.items():
        assert enveloped in operations[name].output_shape.members
        assert set(parameters) <= set(operations[name].input_shape.members)


def _count(local, monkeypatch, refuse=0):
    """Count requests at the front, and answer the first ``refuse`` as KMS does when it is asked too often."""
    seen, answer = [], local._cloud._kms.answer

    def counted(method, url, headers, body):
        seen.append(headers)
        if len(seen) <= refuse:
            error = {"__type": "ThrottlingException", "message": "Rate exceeded"}
            return 400, {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": error["__type"]}, json.dumps(error).encode()
        return answer(method, url, headers, body)

    monkeypatch.setattr(local._cloud._kms, "answer", counted)
    return seen


def test_throttled_requests_are_tried_again_four_times_in_all(local, key, enclave, monkeypatch):
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    seen = _count(local, monkeypatch, refuse=3)
    kms = enclave()
    assert len(kms.generate_data_key(key).plaintext) == 32
    assert len(seen) == 4
    seen = _count(local, monkeypatch, refuse=99)
    assert _refusal(kms.generate_data_key, key) == "ThrottlingException"
    assert len(seen) == 4


def test_answers_are_kept_by_policy_and_never_for_another_request(local, key, enclave, monkeypatch):
    seen = _count(local, monkeypatch)
    kms = enclave(cache={"max_age": 60, "max_uses": 3})
    made = [kms.generate_data_key(key) for _ in range(4)]
    assert len({one.plaintext for one in made[:3]}) == 1
    assert made[3].plaintext != made[0].plaintext
    assert len(seen) == 2
    assert kms.generate_data_key(key, EncryptionContext={"tenant": "b"}).plaintext != made[3].plaintext
    assert kms.decrypt(made[0].ciphertext, key) == kms.decrypt(made[0].ciphertext, key) == made[0].plaintext
    assert len(seen) == 4


def test_a_key_of_another_region_and_parameters_that_kms_lacks_are_refused_here(local, key, enclave, monkeypatch):
    seen = _count(local, monkeypatch)
    kms = enclave(region="eu-central-1")
    assert _refusal(kms.generate_data_key, key) == "usage/kms-region"
    assert _refusal(kms.generate_data_key, "alias/x", Recipient={}) == "usage/kms-parameter"
    assert not seen


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "kms.us-east-1.amazonaws.com"),
        ("cn-north-1", "kms.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "kms.us-gov-west-1.amazonaws.com"),
    ],
)
def test_each_partition_has_its_own_hosts(region, host, credentials, nsm):
    kms = RecipientKms(region, credentials, nsm())
    assert kms._client.meta.endpoint_url == f"https://{host}"
    partition = boto3.Session().get_partition_for_region(region)
    with pytest.raises(Exception, match="another Region"):
        kms.call("generate_data_key", {"KeyId": f"arn:{partition}:kms:eu-west-1:123456789012:key/x"})


def test_many_calls_at_once(key, enclave):
    kms = enclave()
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(kms.generate_data_key(key).plaintext)) for _ in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len(set(made)) == 16
