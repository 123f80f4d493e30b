"""Custom resources in the local cloud: functions that answer, refuse, fail or say nothing; and the one of nitrokit's own, which measures a role at deployment."""

import json
import time
import uuid
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.measurements import pcr3
from nitrokit.emulation.cloud.custom_resources import TYPE
from nitrokit.emulation.cloud.dependencies import custom_resources_first
from nitrokit.emulation.cloud.lambdas import LOCAL_RUNTIME

SAYS = "import cfnresponse\ndef handler(event, context):\n"
RECORDS = """
import boto3, cfnresponse, json
def handler(event, context):
    boto3.client("sqs").send_message(QueueUrl=event["ResourceProperties"]["Queue"], MessageBody=json.dumps(event))
    given = event["ResourceProperties"]
    status = "FAILED" if given.get("Refuse") == event["RequestType"] else "SUCCESS"
    cfnresponse.send(event, context, status, {"Twice": given["Value"] * 2}, given["Id"], reason="not today")
"""


def _resources(code, **properties):
    """A function, the custom resource that it answers for, and a parameter that says its Ref and its attribute."""
    role = {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}}}
    function = {"Handler": "index.handler", "Runtime": LOCAL_RUNTIME, "Timeout": 30, "Code": {"ZipFile": code}}
    attribute = {"Fn::Join": [" ", [{"Ref": "Custom"}, {"Fn::GetAtt": ["Custom", "Twice"]}]]}
    return {
        "Said": {"Type": "AWS::SSM::Parameter", "Properties": {"Name": {"Ref": "AWS::StackName"}, "Type": "String", "Value": attribute}},
        "Custom": {"Type": "Custom::Thing", "Properties": {"ServiceToken": {"Fn::GetAtt": ["Function", "Arn"]}, **properties}},
        "Function": {"Type": "AWS::Lambda::Function", "Properties": {**function, "Role": {"Fn::GetAtt": ["Role", "Arn"]}}},
        "Role": role,
    }


@pytest.fixture
def change(local):
    """Apply a template as the CDK CLI does; gives the stack's status and its events' reasons."""

    def run(name, template, kind="CREATE"):
        client, change_set = local.client("cloudformation"), f"c{uuid.uuid4().hex}"
        client.create_change_set(StackName=name, ChangeSetName=change_set, ChangeSetType=kind, TemplateBody=json.dumps(template))
        client.execute_change_set(StackName=name, ChangeSetName=change_set)
        for _ in range(1200):
            status = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
            if not status.endswith("IN_PROGRESS"):
                return status, _reasons(local, name)
            time.sleep(0.05)
        raise AssertionError("the stack did not end")

    return run


def _reasons(local, name):
    events = local.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
    return {one["ResourceStatus"]: one.get("ResourceStatusReason", "") for one in events}


def _received(local, queue):
    """The requests since the last call, in order."""
    sqs, found = local.client("sqs"), []
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=1).get("Messages"):
        found.append(json.loads(messages[0]["Body"]))
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=messages[0]["ReceiptHandle"])
    return found


def test_a_custom_resource_lives_as_in_cloudformation(local, change):
    queue = local.client("sqs").create_queue(QueueName="custom-life")["QueueUrl"]

    def template(value, physical_id, **more):
        return {"Resources": _resources(RECORDS, Queue=queue, Value=value, Id=physical_id, Flag=True, Number=3, **more)}

    def said():
        return local.client("ssm").get_parameter(Name="custom-life")["Parameter"]["Value"]

    status, reasons = change("custom-life", template("ab", "one"))
    assert status == "CREATE_COMPLETE", reasons
    (created,) = _received(local, queue)
    assert (created["RequestType"], created["ResourceType"], created["LogicalResourceId"]) == ("Create", "Custom::Thing", "Custom")
    assert (created["ResourceProperties"]["Flag"], created["ResourceProperties"]["Number"]) == ("true", "3")
    assert "PhysicalResourceId" not in created
    assert said() == "one abab"

    assert change("custom-life", template("cd", "one"), "UPDATE")[0] == "UPDATE_COMPLETE"
    (updated,) = _received(local, queue)
    assert (updated["RequestType"], updated["PhysicalResourceId"]) == ("Update", "one")
    assert updated["OldResourceProperties"] == created["ResourceProperties"]
    assert said() == "one cdcd", "what refers to a changed custom resource changes with it"

    status, reasons = change("custom-life", template("xy", "one", Refuse="Update"), "UPDATE")
    assert (status, "not today" in reasons["UPDATE_FAILED"]) == ("UPDATE_ROLLBACK_COMPLETE", True)
    assert [one["RequestType"] for one in _received(local, queue)] == ["Update"], "asked once"

    assert change("custom-life", template("cd", "other"), "UPDATE")[0] == "UPDATE_COMPLETE"
    replaced = _received(local, queue)
    assert [(one["RequestType"], one["PhysicalResourceId"]) for one in replaced] == [("Update", "one"), ("Delete", "one")]

    local.client("cloudformation").delete_stack(StackName="custom-life")
    (deleted,) = _received(local, queue)
    assert (deleted["RequestType"], deleted["PhysicalResourceId"]) == ("Delete", "other")


def test_what_cannot_be_deleted_is_still_there(local, change):
    queue = local.client("sqs").create_queue(QueueName="custom-stays")["QueueUrl"]
    assert (
        change("custom-stays", {"Resources": _resources(RECORDS, Queue=queue, Value="a", Id="x", Refuse="Delete")})[0] == "CREATE_COMPLETE"
    )
    local.client("cloudformation").delete_stack(StackName="custom-stays")
    assert local.client("cloudformation").describe_stacks(StackName="custom-stays")["Stacks"][0]["StackStatus"] == "DELETE_FAILED"
    assert "not today" in _reasons(local, "custom-stays")["DELETE_FAILED"]


def test_custom_resources_go_before_what_answers_for_them():
    gone = []
    templates = {
        "Function": {"Type": "AWS::Lambda::Function"},
        "First": {"Type": "Custom::A", "Properties": {"ServiceToken": {"Fn::GetAtt": ["Function", "Arn"]}}},
        "Second": {"Type": TYPE, "Properties": {"First": {"Ref": "First"}}},
        "Kept": {"Type": "Custom::A", "DeletionPolicy": "Retain"},
        "NeverMade": {"Type": "Custom::A"},
    }
    made = {name: name for name in templates if name != "NeverMade"}
    stack = SimpleNamespace(_resource_json_map=templates, _parsed_resources=made, _delete_resource=lambda one, _: gone.append(one))
    custom_resources_first(lambda stack: gone.append(list(stack._parsed_resources)))(stack)
    assert gone == ["Second", "First", ["Function", "Kept"]]


@pytest.mark.parametrize(
    ("code", "more", "reason"),
    [
        (
            f"{SAYS} cfnresponse.send(event, context, 'FAILED', {{}}, 'x', reason='the moon is full')",
            {},
            "Message returned: the moon is full",
        ),
        (f"{SAYS} pass", {"ServiceTimeout": 1}, "did not receive a response"),
        (f"{SAYS} raise ValueError('a bug')", {}, "a bug"),
        (f"{SAYS} cfnresponse.send({{**event, 'RequestId': 'x'}}, context, 'SUCCESS', {{}}, 'x')", {}, "Invalid response object"),
        (f"{SAYS} cfnresponse.send(event, context, 'SUCCESS', {{'Twice': 'x' * 4096}}, 'x')", {}, "too long"),
        (f"{SAYS} cfnresponse.send(event, context, 'SUCCESS', {{'Once': 1}})", {}, "doesn't contain Twice attribute"),
    ],
)
def test_a_stack_fails_with_what_its_custom_resource_said(change, code, more, reason):
    status, reasons = change(f"custom-{uuid.uuid4().hex}", {"Resources": _resources(code, **more)})
    assert status == "ROLLBACK_COMPLETE"
    assert reasons["CREATE_FAILED"].startswith("Custom: ")
    assert reason in reasons["CREATE_FAILED"]


def _enclave_key(owner, measurements, folder):
    """A stack with an EnclaveKey for a role whose name CloudFormation chooses, synthesised."""
    import aws_cdk as cdk
    from aws_cdk import aws_iam as iam

    from nitrokit.cdk.enclave_key import EnclaveKey
    from nitrokit.core.reference_values import ReferenceValues

    app = cdk.App(outdir=str(folder), context={"nitrokit:lambdaRuntime": LOCAL_RUNTIME}, analytics_reporting=False)
    environment = cdk.Environment(account="123456789012", region="us-east-1")
    stack = cdk.Stack(app, "MeasuredRole", env=environment, synthesizer=cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=False))
    role = iam.Role(stack, "Host", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    image = SimpleNamespace(name="app", reference_values=ReferenceValues(measurements))
    key = EnclaveKey(stack, "Key", images=[image], host_role=role, attest_host_role=True, data_owners=[owner])
    for name, value in (("Role", role.role_arn), ("Key", key.key_id)):
        cdk.CfnOutput(stack, f"Out{name}", value=value)
    return app.synth().get_stack_by_name("MeasuredRole").template


def _policy(local, key_id):
    """As one reads it whom IAM allows it."""
    reader = local.create_role("measured-role-reader")
    allowed = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GetKeyPolicy", "Resource": "*"}}
    local.client("iam").put_role_policy(RoleName="measured-role-reader", PolicyName="read", PolicyDocument=json.dumps(allowed))
    return json.loads(local.client("kms", role_arn=reader).get_key_policy(KeyId=key_id, PolicyName="default")["Policy"])


def test_a_role_that_deployment_names_is_measured_and_kms_demands_it(local, change, nsm, measurements, tmp_path):
    owner = local.create_role("measured-role-owner")
    status, reasons = change("measured-role", _enclave_key(owner, measurements, tmp_path / "cdk.out"))
    assert status == "CREATE_COMPLETE", reasons
    outputs = {
        one["OutputKey"]: one["OutputValue"]
        for one in local.client("cloudformation").describe_stacks(StackName="measured-role")["Stacks"][0]["Outputs"]
    }
    role, key_id = outputs["OutRole"], outputs["OutKey"]
    (statement,) = [one for one in _policy(local, key_id)["Statement"] if one["Sid"].startswith("Attested")]
    assert statement["Principal"]["AWS"] == role
    assert statement["Condition"]["StringEqualsIgnoreCase"]["kms:RecipientAttestation:PCR3"] == pcr3(role).hex()

    private = rsa.generate_private_key(65537, 2048)
    spki = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ciphertext = local.client("kms", role_arn=owner).encrypt(KeyId=key_id, Plaintext=b"a secret")["CiphertextBlob"]

    def decrypt(measured_role):
        recipient = {
            "AttestationDocument": nsm(role_arn=measured_role).attestation(public_key=spki),
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        }
        return local.client("kms", role_arn=role).decrypt(CiphertextBlob=ciphertext, Recipient=recipient)

    assert open_enveloped_data(decrypt(role)["CiphertextForRecipient"], private) == b"a secret"
    with pytest.raises(ClientError) as caught:
        decrypt(f"{role}x")
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"
