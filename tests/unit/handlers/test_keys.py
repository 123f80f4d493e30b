"""guard_key_policy and key_canary against the local KMS, which evaluates the deployed key policy for whoever calls."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nitrokit.core.key_policy import build_key_policy
from nitrokit.emulation.local import LocalAws
from nitrokit.handlers import guard_key_policy, key_canary
from nitrokit.handlers.clients import RETRIES
from nitrokit.handlers.key_guard import examine, restore
from nitrokit.handlers.settings import GuardedKey

ACCOUNT = "123456789012"
HOST, ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:role/host", f"arn:aws:iam::{ACCOUNT}:role/administrator"


@pytest.fixture(scope="module")
def local():
    work = Path("/tmp") / f"nkk{os.getpid()}"
    work.mkdir()
    aws = LocalAws(work, environment={}, runner="process", note=lambda _: None)
    for name, actions in {
        "canary": ["kms:Decrypt", "kms:Encrypt"],
        "guard": ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListAliases", "kms:ListGrants", "kms:RevokeGrant", "kms:PutKeyPolicy"],
        "administrator": ["kms:PutKeyPolicy", "kms:RevokeGrant"],
    }.items():
        aws.create_role(name)
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        aws.client("iam").put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(document))
    yield aws
    aws.close()
    shutil.rmtree(work, ignore_errors=True)


@pytest.fixture
def make_key(local, measurements):
    """A key as EnclaveKey makes it; ``deployed``: what somebody made of its policy. It is put past the front, as another administrator did it."""

    def make(change=None, sealed=False):
        meant = build_key_policy(
            measurements=[measurements], host_role_arn=HOST, account=ACCOUNT, data_owner_arns=[f"arn:aws:iam::{ACCOUNT}:role/canary"],
            administrator_arn=None if sealed else ADMINISTRATOR, sealed=sealed,
        )  # fmt: skip
        deployed = json.loads(json.dumps(meant))
        if change:
            change(deployed["Statement"])
        arn = local.client("kms").create_key(Policy=json.dumps(deployed))["KeyMetadata"]["Arn"]
        return GuardedKey("Key", arn, meant)

    return make


def _role(local, name):
    return local.client("kms", role_arn=f"arn:aws:iam::{ACCOUNT}:role/{name}")


def _examine(local, key):
    return examine(_role(local, "guard"), key, ACCOUNT, "aws")


# The guard


def test_what_was_synthesised_is_intact_however_it_is_written(local, make_key):
    def rewrite(statements):
        statements.reverse()
        for one in statements:
            one.pop("Sid")
            one["Action"] = [action.upper().replace("KMS:", "kms:") for action in one["Action"]][::-1]

    for change in (None, rewrite):
        assert _examine(local, make_key(change)).problems == ()
    assert _examine(local, make_key(sealed=True)).problems == ()


def _open(statements):
    statements.append(
        {"Sid": "Helpful", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}
    )


def _without_denies(statements):
    statements[:] = [one for one in statements if one["Effect"] == "Allow"]


def _another_role(statements):
    statements[0]["Principal"]["AWS"] = f"arn:aws:iam::{ACCOUNT}:role/other"


def _debug(statements):
    for one in statements:
        for values in one.get("Condition", {}).values():
            values.update({name: "0" * 96 for name in values})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_open, "statement Helpful was added"),
        (_without_denies, "DenyUnlessPcr0 is gone"),
        (_another_role, "role/other"),
        (_debug, "debug-enclave"),
    ],
)
def test_a_policy_edited_by_hand_is_told_and_can_be_put_back(local, make_key, change, told):
    key = make_key(change)
    state = _examine(local, key)
    assert any(told in problem for problem in state.problems), state.problems
    finding = state.as_finding(restored=False)
    assert (finding.severity, finding.passed) == ("CRITICAL", False)
    restore(_role(local, "administrator"), state)
    assert _examine(local, key).problems == ()


@pytest.mark.parametrize("sealed", [False, True])
def test_a_grant_is_told_and_revoked(local, make_key, sealed):
    key = make_key(sealed=sealed)
    from moto.kms.models import kms_backends

    backend = kms_backends[ACCOUNT]["us-east-1"]
    backend.create_grant(
        key_id=key.arn.rsplit("/", 1)[-1],
        grantee_principal=ADMINISTRATOR,
        operations=["Decrypt"],
        name="",
        constraints={},
        retiring_principal="",
    )
    state = _examine(local, key)
    assert any("lets arn:aws:iam::123456789012:role/administrator Decrypt" in problem for problem in state.problems)
    restore(_role(local, "administrator"), state)
    assert _examine(local, key).problems == ()


def test_an_alias_that_leads_to_another_key_or_to_none_is_told(local, make_key):
    key, other = replace(make_key(), aliases=("alias/data", "alias/more")), make_key()
    from moto.kms.models import kms_backends

    backend = kms_backends[ACCOUNT]["us-east-1"]
    for alias in key.aliases:
        backend.create_alias(key.arn, alias)
    assert _examine(local, key).problems == ()
    backend.update_alias(other.arn, "alias/data")
    backend.delete_alias("alias/more")
    other_id = other.arn.rsplit("/", 1)[-1]
    assert _examine(local, key).problems == (f"alias/data leads to key {other_id}, not to this one", "alias/more leads to no key")


def test_a_key_that_is_disabled_or_cannot_be_read_is_no_pass(local, make_key):
    key = make_key()
    from moto.kms.models import kms_backends

    kms_backends[ACCOUNT]["us-east-1"].disable_key(key.arn.rsplit("/", 1)[-1])
    assert _examine(local, key).problems == ("the key is Disabled",)
    assert _examine(local, GuardedKey("x", key.arn[:-1] + "0", key.policy)).problems == ("the key cannot be read: NotFoundException",)
    (problem,) = examine(_role(local, "canary"), make_key(), ACCOUNT, "aws").problems
    assert "AccessDeniedException" in problem


def test_other_errors_of_kms_pass_through_and_throttling_is_borne(local, make_key):
    key = make_key()
    calls: list[object] = []
    given = _role(local, "guard")._request_signer._credentials.get_frozen_credentials()
    client = boto3.client(
        "kms", endpoint_url=local.environment()["AWS_ENDPOINT_URL"], region_name="us-east-1", config=RETRIES,
        aws_access_key_id=given.access_key, aws_secret_access_key=given.secret_key, aws_session_token=given.token,
    )  # fmt: skip
    from botocore.awsrequest import AWSResponse

    def throttle(request, **_):
        calls.append(request)
        if len(calls) <= 2:
            raw = SimpleNamespace(
                read=lambda *a: b"", stream=lambda: iter([b'{"__type": "ThrottlingException", "message": "Rate exceeded"}'])
            )
            return AWSResponse(request.url, 400, {"x-amzn-ErrorType": "ThrottlingException"}, raw)
        return None

    client.meta.events.register("before-send.kms.DescribeKey", throttle)
    assert examine(client, key, ACCOUNT, "aws").problems == ()
    assert len(calls) == 3


# The canary


@pytest.fixture(autouse=True)
def _forget():
    key_canary._ciphertexts.clear()


def test_a_denial_is_the_proof_and_the_deny_is_the_keys(local, make_key):
    outcome, detail = key_canary.attempt(_role(local, "canary"), make_key())
    assert outcome == "DENIED"
    assert "explicit deny in a resource-based policy" in detail


def test_a_key_that_lets_iam_decide_is_opened_and_that_is_an_alarm(local, make_key):
    def loosen(statements):
        _without_denies(statements)
        _open(statements)

    assert key_canary.attempt(_role(local, "canary"), make_key(loosen))[0] == "OPENED"


def test_any_other_error_proves_nothing(local, make_key):
    key = make_key()
    kms = _role(local, "canary")
    assert key_canary.attempt(_role(local, "guard"), key)[0] == "NOT PROVEN"  # may not encrypt: no ciphertext
    ciphertext = kms.encrypt(KeyId=key.arn, Plaintext=b"x")["CiphertextBlob"]
    throttled = ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "Decrypt")
    for error in (throttled, EndpointConnectionError(endpoint_url="x")):

        def fail(error=error, **_):
            raise error

        playing = SimpleNamespace(encrypt=lambda **_: {"CiphertextBlob": ciphertext}, decrypt=fail)
        key_canary._ciphertexts.clear()
        assert key_canary.attempt(playing, key)[0] == "NOT PROVEN"


# The handlers, with what the construct deploys beside them


@pytest.fixture
def deployed(aws, monkeypatch, measurements):
    """moto alone, whose KMS decides nothing: the handlers' own work."""
    for name, value in {"SETTINGS_PATH": "/nitrokit/x", "STATE_TABLE": "state", "POWERTOOLS_TRACE_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    policy = build_key_policy(measurements=[measurements], host_role_arn=HOST, account=ACCOUNT)
    arn = aws.client("kms").create_key(Policy=json.dumps(policy))["KeyMetadata"]["Arn"]
    statements = policy["Statement"]
    for part, some in enumerate((statements[:3], statements[3:], [])):
        aws.client("ssm").put_parameter(
            Name=f"/nitrokit/x/keys/Key/{part}", Value=json.dumps({"key": arn, "statements": some}), Type="String"
        )
    return arn


def _context(request):
    return SimpleNamespace(aws_request_id=request, invoked_function_arn=f"arn:aws:lambda:eu-west-1:{ACCOUNT}:function:f", function_name="f")


def test_the_guard_tells_a_change_once_and_the_recovery(aws, deployed, publisher, capsys, monkeypatch):
    _, delivered = publisher
    assert guard_key_policy.handler({}, _context("1"))["verdict"] == "PASS"
    kms = aws.client("kms")
    meant = kms.get_key_policy(KeyId=deployed, PolicyName="default")["Policy"]
    policy = json.loads(meant)
    _open(policy["Statement"])
    kms.put_key_policy(KeyId=deployed, PolicyName="default", Policy=json.dumps(policy))
    for request in ("2", "3"):
        answer = guard_key_policy.handler({}, _context(request))
        assert (answer["verdict"], answer["keys"][0]["intact"]) == ("FAIL", False)
    monkeypatch.setenv("RESTORE", "true")
    answer = guard_key_policy.handler({}, _context("4"))
    assert (answer["verdict"], answer["keys"][0]["restored"]) == ("FAIL", True)
    assert guard_key_policy.handler({}, _context("5"))["verdict"] == "PASS"
    assert [(one["detail"]["status"], one["detail"]["kind"]) for one in delivered()] == [("FAILED", "key-policy"), ("PASSED", "key-policy")]
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"KeyPolicyIntact"' in line]
    assert [one["KeyPolicyIntact"] for one in metrics] == [[1.0], [0.0], [0.0], [0.0], [1.0]]


def test_the_canary_reports_an_opened_key(deployed, publisher, capsys):
    _, delivered = publisher
    answer = key_canary.handler({}, _context("1"))  # moto's own KMS opens for everybody
    assert (answer["verdict"], answer["keys"][0]["explicit_deny"]) == ("OPENED", False)
    assert [one["detail"]["kind"] for one in delivered()] == ["canary"]
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert [value for one in metrics for name, value in one.items() if name.startswith("Canary")] == [[0.0], [1.0]]
