"""What a parent publishes: metrics as CloudWatch takes them out of a log, and the permissions for all of it."""

import ast
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import boto3
import jsonschema
import pytest
from botocore.exceptions import ClientError
from emulatedparent import ROOT
from fakeparent import configuration
from moto import mock_aws

from nitrokit.host import cloudwatch, publish
from nitrokit.host.bundle import MODULES
from nitrokit.host.config import AgentError, parse

EMF = json.loads(Path(__file__).with_name("emf.schema.json").read_text())
SNAPSHOTS = ROOT / "tests/templates/snapshots"
# What a CLI command is to IAM where its name does not say (Service Authorization Reference; Amazon ECR User Guide).
NAMES = {
    "s3:HeadObject": "s3:GetObject",
    "s3:Cp": "s3:PutObject",
    "ecr:GetLoginPassword": "ecr:GetAuthorizationToken",
}
BY_CHOICE = {"s3:PutObject", "ecr:GetAuthorizationToken"}
"""With a diagnostics_bucket; for an image that the parent builds."""


def test_metrics_are_in_the_embedded_metric_format(monkeypatch):
    monkeypatch.setenv("AWS_SSM_INSTANCE_ID", "i-1")
    line = json.loads(cloudwatch.metric(parse(configuration()), {"EnclaveHealthy": 1.0, "AppRestarts": 0.0}))
    jsonschema.Draft7Validator.check_schema(EMF)
    jsonschema.validate(line, EMF)
    # What a schema cannot say: every dimension and metric that is named is there.
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert all(isinstance(line[name], str) for dimensions in directive["Dimensions"] for name in dimensions)
    assert {one["Name"]: line[one["Name"]] for one in directive["Metrics"]} == {"EnclaveHealthy": 1.0, "AppRestarts": 0.0}


def test_the_schema_takes_what_aws_own_library_writes_and_nothing_half():
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    metrics = AmazonCloudWatchEMFProvider(namespace="Nitrokit")
    metrics.add_metric(name="EnclaveHealthy", unit="Count", value=1)
    metrics.add_dimension(name="Enclave", value="hello")
    written = metrics.serialize_metric_set()
    jsonschema.validate(written, EMF)
    del written["_aws"]["Timestamp"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, EMF)


def test_a_state_is_whole_json_however_long_its_reason(monkeypatch):
    monkeypatch.setenv("AWS_SSM_INSTANCE_ID", "i-1")
    put = {}
    monkeypatch.setattr(publish, "aws", lambda service, action, request, *_, **__: put.update({action: request}))
    publish.state(parse(configuration(parameter="/p")), {"status": "failed", "reason": "ö\n" * 5000})
    value = put["put-parameter"]["Value"]
    assert json.loads(value)["status"] == "failed"
    assert len(value) <= 4096  # Systems Manager API Reference PutParameter, standard tier


def test_who_makes_the_stream_last_writes_into_it_too(monkeypatch):
    """The supervisor and a step of the agent begin at the same moment."""
    config = parse(configuration(log_group="/g"))
    with mock_aws():
        logs = boto3.client("logs", "us-east-1")
        logs.create_log_group(logGroupName="/g")

        def aws(service, action, request, what, *, timeout):
            if action == "create-log-stream":
                logs.create_log_stream(**request)  # somebody else's, just before
            try:
                getattr(logs, action.replace("-", "_"))(**request)
            except ClientError as error:
                raise AgentError("publish", f"{what} failed", got=str(error)) from error

        monkeypatch.setattr(cloudwatch, "aws", aws)
        cloudwatch.Stream(config, "agent").put(["health: ok"])
        assert [one["message"] for one in logs.filter_log_events(logGroupName="/g")["events"]] == ["health: ok"]


def _calls():
    """service:Action of each AWS call in the agent's sources."""
    found = set()
    for name in MODULES:
        for node in ast.walk(ast.parse((ROOT / "constructs/nitrokit" / name).read_text())):
            words = []
            if isinstance(node, ast.List):
                words = [one.value for one in node.elts if isinstance(one, ast.Constant)]
                words = words[1:] if words[:1] == ["aws"] else []
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "aws":
                words = [one.value for one in node.args if isinstance(one, ast.Constant)]
            if len(words) >= 2 and not str(words[0]).startswith("-"):
                action = "".join(part.capitalize() for part in str(words[1]).split("-"))
                call = f"{str(words[0]).removesuffix('api')}:{action}"
                found.add(NAMES.get(call, call))
    return found


def test_the_parents_role_may_do_what_the_agent_does():
    """By the template of every prop's scenario, which another test compares with what is synthesised."""
    calls = _calls()
    assert {"ssm:PutParameter", "ssm:PutComplianceItems", "logs:PutLogEvents", "logs:CreateLogStream", "s3:GetObject", *BY_CHOICE} <= calls
    allowed = set()
    for path in SNAPSHOTS.glob("*.json"):
        for name, statements in json.loads(path.read_text())["statements"].items():
            if re.search(r"(Host|Fleet)\w*RoleDefaultPolicy", name):
                for statement in statements:
                    allowed |= {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
    lacking = {call for call in calls if not any(fnmatchcase(call, pattern) for pattern in allowed)}
    assert lacking <= BY_CHOICE
