"""guard_key_policy and key_canary against the local KMS, which evaluates the deployed key policy for whoever calls."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.awsrequest import AWSResponse
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
    assert (finding.subject, finding.resource) == ("Key", (key.arn, "AwsKmsKey"))
    assert [state.as_finding(one).details for one in (False, True)] == [{"key": key.arn, "restored": one} for one in ("false", "true")]
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


def test_a_key_with_replicas_is_told_and_no_restoring_mends_it(local, make_key):
    meant = make_key().policy
    arn = local.client("kms").create_key(Policy=json.dumps(meant), MultiRegion=True)["KeyMetadata"]["Arn"]
    state = _examine(local, GuardedKey("Key", arn, meant))
    assert state.problems == state.lasting == ("the key has replicas, whose policies are their own",)


def _answers(request, code):
    """KMS's answer of an error (botocore parses it)."""
    raw = SimpleNamespace(read=lambda *a: b"", stream=lambda: iter([json.dumps({"__type": code, "message": "told"}).encode()]))
    return AWSResponse(request.url, 400, {"x-amzn-ErrorType": code}, raw)


@pytest.fixture
def patient(local):
    """KMS for the guard's role, with the retries that the function has."""
    given = _role(local, "guard")._request_signer._credentials.get_frozen_credentials()
    return boto3.client(
        "kms", endpoint_url=local.environment()["AWS_ENDPOINT_URL"], region_name="us-east-1", config=RETRIES,
        aws_access_key_id=given.access_key, aws_secret_access_key=given.secret_key, aws_session_token=given.token,
    )  # fmt: skip


def test_throttling_is_borne(patient, make_key):
    calls: list[object] = []

    def throttle(request, **_):
        calls.append(request)
        return _answers(request, "ThrottlingException") if len(calls) <= 2 else None

    patient.meta.events.register("before-send.kms.DescribeKey", throttle)
    assert examine(patient, make_key(), ACCOUNT, "aws").problems == ()
    assert len(calls) == 3


@pytest.mark.parametrize("call", ["DescribeKey", "GetKeyPolicy", "ListGrants"])
def test_what_says_that_a_key_cannot_be_read_is_a_problem_and_other_errors_pass_through(patient, make_key, call):
    """Lambda tries an error again; a key told as unreadable, which KMS only did not answer for, would be a false alarm."""
    codes = iter(["KMSInvalidStateException", "DependencyTimeoutExceptionOfTomorrow"])
    patient.meta.events.register(f"before-send.kms.{call}", lambda request, **_: _answers(request, next(codes)))
    key = make_key()
    state = examine(patient, key, ACCOUNT, "aws")
    assert state.problems == state.lasting == ("the key cannot be read: KMSInvalidStateException",)
    with pytest.raises(ClientError, match="OfTomorrow"):
        examine(patient, key, ACCOUNT, "aws")


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


def test_another_change_of_a_key_that_is_not_intact_is_told_too(aws, deployed, publisher):
    _, delivered = publisher
    kms = aws.client("kms")
    policy = json.loads(kms.get_key_policy(KeyId=deployed, PolicyName="default")["Policy"])
    for change in (_open, _another_role):
        change(policy["Statement"])
        kms.put_key_policy(KeyId=deployed, PolicyName="default", Policy=json.dumps(policy))
        for request in (f"{change.__name__}/1", f"{change.__name__}/2"):
            assert guard_key_policy.handler({}, _context(request))["verdict"] == "FAIL"
    first, second = (one["detail"]["description"] for one in delivered())
    assert "role/other" not in first and "role/other" in second


def test_a_policy_that_nobody_here_understands_is_a_fail_and_is_put_back(aws, deployed, monkeypatch):
    """KMS takes what it takes: what the guard cannot compare may open everything."""
    kms = aws.client("kms")
    policy = json.loads(kms.get_key_policy(KeyId=deployed, PolicyName="default")["Policy"])
    statement = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*", "Novelty": "x"}
    kms.put_key_policy(KeyId=deployed, PolicyName="default", Policy=json.dumps({**policy, "Statement": [*policy["Statement"], statement]}))
    answer = guard_key_policy.handler({}, _context("1"))
    assert (answer["verdict"], answer["keys"][0]["intact"]) == ("FAIL", False)
    assert "not understood" in answer["keys"][0]["problems"][0]
    monkeypatch.setenv("RESTORE", "true")
    assert guard_key_policy.handler({}, _context("2"))["keys"][0]["restored"]
    assert guard_key_policy.handler({}, _context("3"))["verdict"] == "PASS"


def test_the_canary_reports_an_opened_key(deployed, publisher, capsys):
    _, delivered = publisher
    answer = key_canary.handler({}, _context("1"))  # moto's own KMS opens for everybody
    assert (answer["verdict"], answer["keys"][0]["explicit_deny"]) == ("OPENED", False)
    assert [one["detail"]["kind"] for one in delivered()] == ["canary"]
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert [value for one in metrics for name, value in one.items() if name.startswith("Canary")] == [[0.0], [1.0]]


def test_the_canary_tells_security_hub_where_it_is_used(aws, deployed, publisher, monkeypatch):
    for used in (False, True):
        monkeypatch.setenv("SECURITY_HUB", str(used).lower())
        key_canary.handler({}, _context("1"))
        imported = aws.client("securityhub").get_findings(MaxResults=100)["Findings"]
        assert [one["Id"] for one in imported] == ["nitrokit/canary/Key"] * used
