"""The local AWS: KMS that checks signatures, policies and documents; SSM that runs; CloudFormation that orders, fails and says why."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.nsm import NsmClient
from nitrokit.emulation.cloud import lambdas
from nitrokit.emulation.cloud.dependencies import dependency_order
from nitrokit.emulation.cloud.ssm import DocumentError, Outcome, run_document
from nitrokit.emulation.interfaces import ScriptResult

HOST = "arn:aws:iam::123456789012:role/host"


@pytest.fixture(scope="module")
def key(local, measurements):
    owner = local.create_role("owner")
    policy = build_key_policy(measurements=[measurements], host_role_arn=HOST, account=local.account, data_owner_arns=[owner])
    key_id = local.client("kms").create_key(Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True)["KeyMetadata"]["KeyId"]
    ciphertext = local.client("kms", role_arn=owner).encrypt(KeyId=key_id, Plaintext=b"a secret")["CiphertextBlob"]
    return key_id, ciphertext


RSA = rsa.generate_private_key(65537, 2048)
SPKI = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _recipient(document):
    return {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}


def _code(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def test_the_attested_host_gets_a_message_for_its_key_and_no_plaintext(local, key, nsm):
    answer = local.client("kms", role_arn=HOST).decrypt(CiphertextBlob=key[1], Recipient=_recipient(nsm().attestation(public_key=SPKI)))
    assert "Plaintext" not in answer
    assert open_enveloped_data(answer["CiphertextForRecipient"], RSA) == b"a secret"


def test_who_is_denied(local, key, nsm, pki, make_nsm):
    from nitrokit.core.measurements import Measurements, digest

    host, key_id = local.client("kms", role_arn=HOST), key[0]
    document = nsm().attestation(public_key=SPKI)
    other = nsm(measurements=Measurements(digest([b"x"]), digest([b"y"]), digest([b"z"]))).attestation(public_key=SPKI)
    assert _code(host.decrypt, CiphertextBlob=key[1]) == "AccessDeniedException"
    assert _code(host.decrypt, CiphertextBlob=key[1], Recipient=_recipient(other)) == "AccessDeniedException"
    assert (
        _code(host.decrypt, CiphertextBlob=key[1], Recipient=_recipient(nsm(debug=True).attestation(public_key=SPKI)))
        == "AccessDeniedException"
    )
    assert _code(local.client("kms").decrypt, CiphertextBlob=key[1], Recipient=_recipient(document)) == "AccessDeniedException"
    assert _code(host.create_grant, KeyId=key_id, GranteePrincipal=HOST, Operations=["Decrypt"]) == "AccessDeniedException"
    assert _code(local.client("kms").put_key_policy, KeyId=key_id, PolicyName="default", Policy="{}") == "AccessDeniedException"
    assert _code(host.re_encrypt, CiphertextBlob=key[1], DestinationKeyId=key_id) == "AccessDeniedException"


def test_documents_that_are_not_valid(local, key, nsm, make_nsm, vectors):
    host = local.client("kms", role_arn=HOST)
    foreign = NsmClient(make_nsm().answer).attestation(public_key=SPKI)
    real = next((vectors / "attestation").glob("*.bin")).read_bytes()
    for document in (b"garbage", foreign, real, nsm().attestation(public_key=SPKI)[:-1]):
        assert _code(host.decrypt, CiphertextBlob=key[1], Recipient=_recipient(document)) == "ValidationException"
    assert _code(host.decrypt, CiphertextBlob=key[1], Recipient=_recipient(nsm().attestation())) == "ValidationException"


def test_signatures_are_checked(local, key):
    def client(**changes):
        keys = local._cloud.identities.operator
        arguments = {"aws_access_key_id": keys.access_key_id, "aws_secret_access_key": keys.secret_access_key, **changes}
        return boto3.client("kms", endpoint_url=local._cloud.endpoint_url, region_name="us-east-1", **arguments)

    for changes, code in (
        ({"aws_secret_access_key": "wrong"}, "InvalidSignatureException"),
        ({"aws_access_key_id": "AKIAUNKNOWN"}, "UnrecognizedClientException"),
        ({"aws_session_token": "x"}, "UnrecognizedClientException"),
        ({"config": Config(signature_version=UNSIGNED)}, "MissingAuthenticationTokenException"),
    ):
        assert _code(client(**changes).list_keys) == code
    assert client().list_keys()["Keys"]


def test_every_decision_is_on_record_without_a_secret(local, key):
    decisions = local.kms_decisions()
    assert {one["allowed"] for one in decisions} == {True, False}
    assert "a secret" not in json.dumps(decisions)


def test_it_listens_on_loopback_alone(local):
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {local._cloud.port, local._cloud.kms_port}
    addresses = {one[1].split(":")[0] for one in listening if one[3] == "0A" and int(one[1].split(":")[1], 16) in ports}
    assert addresses == {"0100007F"}


def test_imds_wants_a_token(local):
    base = f"http://127.0.0.1:{local._cloud.port}/imds/i-unknown/"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{base}latest/meta-data/instance-id")


class _Shell:
    """An instance that is this machine's shell."""

    def __init__(self):
        self.scripts = []

    def run_script(self, script, environment, timeout):
        self.scripts.append(script)
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], **environment},
            check=False,
            timeout=timeout,
        )
        return ScriptResult(done.returncode, done.stdout, done.stderr)

    def close(self):
        pass


def _document(*commands, **parameters):
    steps = [
        {"action": "aws:runShellScript", "name": f"step{index}", "inputs": {"runCommand": [one]}} for index, one in enumerate(commands)
    ]
    return {"schemaVersion": "2.2", "parameters": parameters, "mainSteps": steps}


def test_a_failed_step_fails_the_document_and_ends_it_only_with_on_failure_exit():
    shell, document = _Shell(), _document("echo one", "echo two >&2; exit 3", "echo three")
    assert run_document(document, {}, shell, {}, lambda _: None) == Outcome("Failed", 3, "one\nthree\n", "two\n", "step1")
    document["mainSteps"][1]["inputs"]["onFailure"] = "exit"
    assert run_document(document, {}, shell, {}, lambda _: None) == Outcome("Failed", 3, "one\n", "two\n", "step1")
    assert len(shell.scripts) == 5


def test_env_var_parameters_never_become_part_of_a_script():
    shell = _Shell()
    document = _document(
        'echo "got $SSM_Value and {{ Plain }}"',
        Value={"type": "String", "interpolationType": "ENV_VAR"},
        Plain={"type": "String", "default": "p"},
    )
    outcome = run_document(document, {"Value": ['"; echo injected; "']}, shell, {}, lambda _: None)
    assert outcome.stdout == 'got "; echo injected; " and p\n'
    assert "injected" not in shell.scripts[0]


@pytest.mark.parametrize("given", [{}, {"Value": ["BAD"]}, {"Value": ["ok"], "Other": ["x"]}])
def test_parameters_are_checked(given):
    with pytest.raises(DocumentError):
        run_document(_document("true", Value={"type": "String", "allowedPattern": "[a-z]+"}), given, _Shell(), {}, lambda _: None)


def _deploy(local, name, resources):
    client = local.client("cloudformation")
    client.create_change_set(StackName=name, ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=json.dumps({"Resources": resources}))
    client.execute_change_set(StackName=name, ChangeSetName="c")
    for _ in range(200):
        stack = client.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            return stack["StackStatus"], client.describe_stack_events(StackName=name)["StackEvents"]
        time.sleep(0.05)
    raise AssertionError("the stack did not end")


def test_unknown_types_fail_the_stack_by_name(local):
    status, events = _deploy(local, "unknown", {"X": {"Type": "AWS::Surprise::Thing", "Properties": {}}})
    assert status == "ROLLBACK_COMPLETE"
    assert any("AWS::Surprise::Thing" in one.get("ResourceStatusReason", "") for one in events)


def test_keys_are_of_the_kind_that_the_template_says(local):
    policy = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}}
    _deploy(
        local,
        "signing",
        {"K": {"Type": "AWS::KMS::Key", "Properties": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "KeyPolicy": policy}}},
    )
    (resource,) = local.client("cloudformation").describe_stack_resources(StackName="signing")["StackResources"]
    kms, key_id = local.client("kms"), resource["PhysicalResourceId"]
    signed = kms.sign(KeyId=key_id, Message=b"m", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
    public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signed, b"m", ec.ECDSA(SHA256()))


def test_a_failing_association_fails_the_stack_with_its_step_and_cause(local):
    content = _document("echo fine", "echo 'the disk is full' >&2; exit 1")
    resources = {
        "Instance": {"Type": "AWS::EC2::Instance", "Properties": {"ImageId": "ami-12c6146b", "InstanceType": "m6i.xlarge"}},
        "Document": {"Type": "AWS::SSM::Document", "Properties": {"Content": content}},
        "Association": {
            "Type": "AWS::SSM::Association",
            "Properties": {
                "Name": {"Ref": "Document"},
                "Targets": [{"Key": "InstanceIds", "Values": [{"Ref": "Instance"}]}],
                "WaitForSuccessTimeoutSeconds": 60,
            },
        },
    }
    status, events = _deploy(local, "failing", resources)
    assert status == "ROLLBACK_COMPLETE"
    reasons = " ".join(one.get("ResourceStatusReason", "") for one in events)
    assert "step1" in reasons
    assert "the disk is full" in reasons


def test_a_wait_condition_takes_signals_where_its_handle_says(local):
    resources = {
        "Handle": {"Type": "AWS::CloudFormation::WaitConditionHandle"},
        "Condition": {"Type": "AWS::CloudFormation::WaitCondition", "Properties": {"Handle": {"Ref": "Handle"}, "Timeout": "60"}},
    }
    assert _deploy(local, "signalled", resources)[0] == "CREATE_COMPLETE"
    found = local.client("cloudformation").describe_stack_resources(StackName="signalled")["StackResources"]
    url = next(one["PhysicalResourceId"] for one in found if one["LogicalResourceId"] == "Handle")
    urllib.request.urlopen(urllib.request.Request(url, b"{}", {"Content-Type": ""}, method="PUT")).close()
    bucket, key = url.split("/")[-2:]
    assert local.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == b"{}"


def test_compliance_that_an_instance_reports_is_there(local):
    ssm = local.client("ssm")
    item = {"Id": "hello", "Severity": "CRITICAL", "Status": "NON_COMPLIANT"}
    report = {
        "ResourceId": "i-1",
        "ResourceType": "ManagedInstance",
        "ComplianceType": "Custom:Enclave",
        "ExecutionSummary": {"ExecutionTime": 1},
    }
    ssm.put_compliance_items(**report, Items=[item], UploadType="PARTIAL")
    ssm.put_compliance_items(**report, Items=[{**item, "Id": "other", "Status": "COMPLIANT"}], UploadType="PARTIAL")
    listed = ssm.list_compliance_items(ResourceIds=["i-1"], ResourceTypes=["ManagedInstance"])["ComplianceItems"]
    assert {one["Id"]: one["Status"] for one in listed} == {"hello": "NON_COMPLIANT", "other": "COMPLIANT"}


def test_a_stack_that_is_being_changed_takes_no_other_change(local):
    resources = {
        "Instance": {"Type": "AWS::EC2::Instance", "Properties": {"ImageId": "ami-12c6146b", "InstanceType": "m6i.xlarge"}},
        "Document": {"Type": "AWS::SSM::Document", "Properties": {"Content": _document("sleep 1")}},
        "Association": {
            "Type": "AWS::SSM::Association",
            "Properties": {
                "Name": {"Ref": "Document"},
                "Targets": [{"Key": "InstanceIds", "Values": [{"Ref": "Instance"}]}],
                "WaitForSuccessTimeoutSeconds": 60,
            },
        },
    }
    client = local.client("cloudformation")
    client.create_change_set(StackName="slow", ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=json.dumps({"Resources": resources}))
    client.execute_change_set(StackName="slow", ChangeSetName="c")
    with pytest.raises(ClientError, match="CREATE_IN_PROGRESS state and can not be updated"):
        client.execute_change_set(StackName="slow", ChangeSetName="c")
    client.get_waiter("stack_create_complete").wait(StackName="slow", WaiterConfig={"Delay": 1})


def test_a_resource_that_cannot_be_updated_is_not_forgotten(local):
    def resources(kind):
        return {"Instance": {"Type": "AWS::EC2::Instance", "Properties": {"ImageId": "ami-12c6146b", "InstanceType": kind}}}

    _deploy(local, "kept", resources("m6i.xlarge"))
    client = local.client("cloudformation")
    (before,) = client.list_stack_resources(StackName="kept")["StackResourceSummaries"]
    client.create_change_set(
        StackName="kept", ChangeSetName="d", ChangeSetType="UPDATE", TemplateBody=json.dumps({"Resources": resources("m6i.2xlarge")})
    )
    client.execute_change_set(StackName="kept", ChangeSetName="d")
    client.get_waiter("stack_update_complete").wait(StackName="kept", WaiterConfig={"Delay": 1})
    (after,) = client.list_stack_resources(StackName="kept")["StackResourceSummaries"]
    assert (after["LogicalResourceId"], after["PhysicalResourceId"]) == ("Instance", before["PhysicalResourceId"])


def test_what_is_retained_stays_when_it_leaves_the_stack_and_when_the_stack_goes(local):
    policies = ("Delete", "Retain", "RetainExceptOnCreate")

    def parameters(*names, **more):
        return {
            name: {"Type": "AWS::SSM::Parameter", "Properties": {"Name": f"/kept/{name}", "Type": "String", "Value": "x"}, **more}
            for name in names
        }

    leaving = {name: one for policy in policies for name, one in parameters(f"Leaves{policy}", DeletionPolicy=policy).items()}
    staying = {name: one for policy in policies for name, one in parameters(f"Stays{policy}", DeletionPolicy=policy).items()}
    assert _deploy(local, "retaining", {**leaving, **staying})[0] == "CREATE_COMPLETE"
    client = local.client("cloudformation")
    client.create_change_set(
        StackName="retaining", ChangeSetName="d", ChangeSetType="UPDATE", TemplateBody=json.dumps({"Resources": staying})
    )
    client.execute_change_set(StackName="retaining", ChangeSetName="d")
    client.get_waiter("stack_update_complete").wait(StackName="retaining", WaiterConfig={"Delay": 1})
    there = {one["Name"].removeprefix("/kept/") for one in local.client("ssm").get_parameters_by_path(Path="/kept")["Parameters"]}
    assert there == {*staying, "LeavesRetain", "LeavesRetainExceptOnCreate"}
    client.delete_stack(StackName="retaining")
    there = {one["Name"].removeprefix("/kept/") for one in local.client("ssm").get_parameters_by_path(Path="/kept")["Parameters"]}
    assert there == {"LeavesRetain", "LeavesRetainExceptOnCreate", "StaysRetain", "StaysRetainExceptOnCreate"}


def test_who_is_told_of_a_topic_can_be_looked_up_and_changes_with_the_stack(local):
    topics = local.client("sns")

    def resources(*addresses):
        fixed = {"TopicArn": {"Ref": "Topic"}, "Protocol": "email"}
        told = {
            f"Told{number}": {"Type": "AWS::SNS::Subscription", "Properties": {**fixed, "Endpoint": one}}
            for number, one in enumerate(addresses)
        }
        return {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {}}, **told}

    def told():
        return sorted((one["Protocol"], one["Endpoint"]) for one in topics.list_subscriptions()["Subscriptions"])

    assert _deploy(local, "told", resources("ops@example.com", "dev@example.com"))[0] == "CREATE_COMPLETE"
    assert told() == [("email", "dev@example.com"), ("email", "ops@example.com")]
    client = local.client("cloudformation")
    body = json.dumps({"Resources": resources("night@example.com")})
    client.create_change_set(StackName="told", ChangeSetName="d", ChangeSetType="UPDATE", TemplateBody=body)
    client.execute_change_set(StackName="told", ChangeSetName="d")
    client.get_waiter("stack_update_complete").wait(StackName="told", WaiterConfig={"Delay": 1})
    assert told() == [("email", "night@example.com")]
    client.delete_stack(StackName="told")
    assert told() == []


def test_an_unknown_change_set_is_said_to_be_unknown(local):
    assert _code(local.client("cloudformation").describe_change_set, ChangeSetName="nobody", StackName="nothing") == "ChangeSetNotFound"


def test_change_sets_of_one_name_belong_each_to_its_stack(local):
    """The CDK names all of its change sets alike."""
    client = local.client("cloudformation")
    for name in ("one", "other"):
        body = json.dumps({"Resources": {name: {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": "x"}}}})
        client.create_change_set(StackName=name, ChangeSetName="cdk", ChangeSetType="CREATE", TemplateBody=body)
    assert client.describe_change_set(StackName="one", ChangeSetName="cdk")["StackName"] == "one"
    assert client.describe_change_set(StackName="other", ChangeSetName="cdk")["StackName"] == "other"
    client.delete_change_set(StackName="other", ChangeSetName="cdk")
    assert _code(client.describe_change_set, StackName="other", ChangeSetName="cdk") == "ChangeSetNotFound"
    assert client.describe_change_set(StackName="one", ChangeSetName="cdk")["StackName"] == "one"
    client.delete_change_set(StackName="other", ChangeSetName="cdk")


def test_resources_come_after_what_they_need():
    resources = {"A": {"DependsOn": "C"}, "B": {"P": {"Fn::GetAtt": ["A", "Arn"]}}, "C": {}, "D": {"P": [{"Ref": "B"}]}}
    assert dependency_order(resources) == ["C", "A", "B", "D"]


def _zipped(body):
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.py", body)
    return buffer.getvalue()


def _function(tmp_path, body, timeout=5.0):
    return lambdas.FunctionProcess(
        "arn:aws:lambda:us-east-1:123456789012:function:f",
        _zipped(body),
        "index.handler",
        timeout,
        tmp_path,
        {**lambdas.base_environment(), "AWS_REGION": "us-east-1"},
    )


def test_events_reach_lambdas_and_schedules_match_none():
    import threading

    import boto3
    from moto import mock_aws

    from nitrokit.emulation.cloud import events

    seen, arrived = [], threading.Event()

    def invoke(function, event):
        seen.append((function.function_name, event["detail"]))
        arrived.set()

    with mock_aws():
        restore = events.install(invoke)
        try:
            client, roles = boto3.client("events", "us-east-1"), boto3.client("iam", "us-east-1")
            role = roles.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
            code = {"ZipFile": _zipped("def handler(e, c): pass")}
            functions = boto3.client("lambda", "us-east-1")
            arn = functions.create_function(FunctionName="f", Runtime="python3.11", Role=role, Handler="index.handler", Code=code)[
                "FunctionArn"
            ]
            client.put_rule(Name="mine", EventPattern=json.dumps({"source": ["mine"]}))
            client.put_rule(Name="tick", ScheduleExpression="rate(1 minute)")
            for rule in ("mine", "tick"):
                client.put_targets(Rule=rule, Targets=[{"Id": "t", "Arn": arn}])
            client.put_events(
                Entries=[{"Source": source, "DetailType": "d", "Detail": json.dumps({"of": source})} for source in ("other", "mine")]
            )
            assert arrived.wait(10)
        finally:
            restore()
    assert seen == [("f", {"of": "mine"})]


def test_functions_run_warm_under_the_real_runtime_client(tmp_path):
    function = _function(
        tmp_path,
        "count = 0\ndef handler(event, context):\n global count; count += 1\n return {'count': count, 'event': event, 'id': context.aws_request_id}\n",
    )
    first, second = (json.loads(function.invoke(b'{"a": 1}')[1]) for _ in range(2))
    function.close()
    assert (first["count"], second["count"], first["event"]) == (1, 2, {"a": 1})
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [("def handler(e, c): raise ValueError('bad')", "ValueError"), ("import os\ndef handler(e, c): os._exit(3)", "Runtime.ExitError"),
        ("import time\ndef handler(e, c): time.sleep(60)", "Sandbox.Timedout")],
)  # fmt: skip
def test_failing_functions_say_how(tmp_path, body, kind):
    function = _function(tmp_path, body, timeout=3.0)
    failed, payload = function.invoke(b"{}")
    function.close()
    assert failed
    assert json.loads(payload)["errorType"] == kind
