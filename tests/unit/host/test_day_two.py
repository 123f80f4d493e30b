"""The documents in the local cloud: an operator runs the Automation runbook, Systems Manager the agent, and the agent's own AWS calls arrive."""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from emulatedparent import hello_configuration

from nitrokit.emulation.local import LocalAws
from nitrokit.host.bundle import build_agent
from nitrokit.host.renderer import render_document


@pytest.fixture(scope="module")
def local():
    # Short: unix socket paths below it must fit in 108 bytes.
    work = Path(tempfile.mkdtemp(prefix="nk-", dir="/tmp"))
    aws = LocalAws(work, environment=os.environ, runner="process", note=lambda _: None)
    yield aws
    aws.close()
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def site(local, eif):
    """A function that runs the runbook, and the configuration."""
    s3, ssm = local.client("s3"), local.client("ssm")
    s3.create_bucket(Bucket="assets")
    s3.put_object(Bucket="assets", Key="hello.eif", Body=eif.read_bytes())
    s3.put_object(Bucket="assets", Key="agent.pyz", Body=build_agent())
    local.client("logs").create_log_group(logGroupName="/nitrokit/hello")
    config = hello_configuration(eif, image_uri="s3://assets/hello.eif", log_group="/nitrokit/hello", parameter="/nitrokit/hello")
    agent = {"agent_uri": "s3://assets/agent.pyz", "agent_sha256": hashlib.sha256(build_agent()).hexdigest()}
    documents = {
        "bootstrap": render_document("bootstrap.json.j2", name="hello"),
        "operate": render_document("operate.json.j2", name="hello"),
        "runbook": render_document("runbook.json.j2", name="hello", bootstrap="bootstrap", operate="operate", config=config, **agent),
    }
    for name, content in documents.items():
        kind = "Automation" if name == "runbook" else "Command"
        ssm.create_document(Name=name, Content=json.dumps(content), DocumentType=kind, DocumentFormat="JSON")

    def runbook(instances, action, **parameters):
        given = {"InstanceIds": instances, "Action": [action], **parameters}
        execution = ssm.start_automation_execution(DocumentName="runbook", Parameters=given)["AutomationExecutionId"]
        deadline = time.monotonic() + 300
        while (told := ssm.get_automation_execution(AutomationExecutionId=execution)["AutomationExecution"])[
            "AutomationExecutionStatus"
        ] == "InProgress":
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        return told

    return runbook, config


def _launch(local, count):
    """Parents that nothing ever ran on: their ids."""
    role = {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}}
    resources = {
        "Role": {"Type": "AWS::IAM::Role", "Properties": role},
        "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [{"Ref": "Role"}]}},
    }
    instance = {
        "ImageId": "ami-12c6146b",
        "InstanceType": "m6i.xlarge",
        "EnclaveOptions": {"Enabled": True},
        "IamInstanceProfile": {"Ref": "Profile"},
    }
    for number in range(count):
        resources[f"Parent{number}"] = {"Type": "AWS::EC2::Instance", "Properties": instance}
    client = local.client("cloudformation")
    client.create_stack(StackName=f"parents{count}", TemplateBody=json.dumps({"Resources": resources}))
    found = client.describe_stack_resources(StackName=f"parents{count}")["StackResources"]
    return sorted(one["PhysicalResourceId"] for one in found if one["ResourceType"] == "AWS::EC2::Instance")


def _steps(told):
    return [(one["StepName"], one["StepStatus"]) for one in told["StepExecutions"]]


def _state(local, parent):
    """What the parent published of its enclave: the parameter's status, and its compliance."""
    ssm = local.client("ssm")
    values = ssm.get_parameters(Names=[f"/nitrokit/hello/{parent}/hello"])["Parameters"]
    items = ssm.list_compliance_items(ResourceIds=[parent], ResourceTypes=["ManagedInstance"])["ComplianceItems"]
    return [*(json.loads(one["Value"])["status"] for one in values), *((one["ComplianceType"], one["Status"]) for one in items)]


def _wait(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.timeout(600)
def test_an_operators_day(local, site):
    runbook, _ = site
    (parent,) = _launch(local, 1)
    told = runbook([parent], "replace")
    assert (told["AutomationExecutionStatus"], _steps(told)) == ("Success", [("choose", "Success"), ("replace", "Success")]), told
    enclaves = lambda: [one["EnclaveID"] for instance in local.instances for one in instance.hypervisor.describe()]  # noqa: E731
    (first,) = enclaves()
    _wait(lambda: _state(local, parent) == ["running", ("Custom:Enclave", "COMPLIANT")])

    assert _steps(runbook([parent], "rotate")) == [("choose", "Success"), ("operate", "Success")]
    (second,) = enclaves()
    assert second != first

    assert runbook([parent], "drain")["AutomationExecutionStatus"] == "Success"
    assert enclaves() == []
    assert _state(local, parent) == ["drained", ("Custom:Enclave", "NON_COMPLIANT")]

    assert runbook([parent], "diagnose", Upload=["s3://assets/support"])["AutomationExecutionStatus"] == "Success"
    (uploaded,) = local.client("s3").list_objects_v2(Bucket="assets", Prefix="support/")["Contents"]
    archive = local.client("s3").get_object(Bucket="assets", Key=uploaded["Key"])["Body"].read()
    with tarfile.open(fileobj=BytesIO(archive)) as bundle:
        assert "status.json" in bundle.getnames()

    logs = local.client("logs").filter_log_events(logGroupName="/nitrokit/hello")["events"]
    said = [one["message"].partition(":")[0] for one in logs if not one["message"].startswith("{")]
    assert said == ["health", "rotate", "drain"]
    metrics = [json.loads(one["message"]) for one in logs if one["message"].startswith("{")]
    assert {one["InstanceId"] for one in metrics} == {parent}


@pytest.mark.timeout(600)
def test_no_parent_follows_one_that_failed(local, site):
    runbook, config = site
    parents, before = _launch(local, 2), len(local.instances)
    wrong = json.dumps({**json.loads(config), "image_sha256": "0" * 64})
    told = runbook(parents, "replace", Config=[wrong])
    assert (told["AutomationExecutionStatus"], _steps(told)[-1]) == ("Failed", ("replace", "Failed"))
    assert "[agent/image-sha256]" in told["FailureMessage"]
    assert "Terminated" in told["FailureMessage"]
    assert len(local.instances) == before + 1  # the second was not touched


def test_what_the_runbook_does_not_do_is_refused(site):
    runbook, _ = site
    with pytest.raises(ClientError, match="InvalidAutomationExecutionParametersException"):
        runbook(["i-1"], "reboot")
