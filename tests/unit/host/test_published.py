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
from botocore.validate import ParamValidator
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


def _put(monkeypatch, **changes):
    """What is put into AWS from now on by an enclave that publishes everything: (action, request)."""
    monkeypatch.setenv("AWS_SSM_INSTANCE_ID", "i-1")
    put = []
    for module in (publish, cloudwatch):
        monkeypatch.setattr(module, "aws", lambda service, action, request, *_, **__: put.append((service, action, request)))
    return parse(configuration(parameter="/p", log_group="/g", **changes)), put


@pytest.mark.parametrize(
    ("status", "compliance", "severity"), [("running", "COMPLIANT", "INFORMATIONAL"), ("failed", "NON_COMPLIANT", "CRITICAL")]
)
def test_a_state_is_what_systems_manager_takes_for_this_enclave_alone(monkeypatch, status, compliance, severity):
    config, put = _put(monkeypatch)
    publish.state(config, {"status": status, "reason": "why"})
    model = boto3.client("ssm", "us-east-1").meta.service_model
    for _, action, request in put:
        shape = model.operation_model("".join(word.capitalize() for word in action.split("-"))).input_shape
        assert not ParamValidator().validate(request, shape).has_errors()
    parameter, report = (request for _, _, request in put)
    told = json.loads(parameter["Value"])
    assert (parameter["Name"], parameter["Overwrite"], told["enclave"], told["instance"]) == ("/p/i-1/hello", True, "hello", "i-1")
    (item,) = report["Items"]
    assert (report["ResourceId"], report["UploadType"]) == ("i-1", "PARTIAL"), "a complete report would replace another enclave's item"
    assert (item["Id"], item["Status"], item["Severity"], item["Details"]) == ("hello", compliance, severity, {"reason": "why"})


def test_who_has_no_parameter_or_no_instance_publishes_no_state(monkeypatch):
    _, put = _put(monkeypatch)
    publish.state(parse(configuration()), {"status": "running"})
    monkeypatch.delenv("AWS_SSM_INSTANCE_ID")
    publish.state(parse(configuration(parameter="/p")), {"status": "running"})
    assert put == []


def test_what_changed_is_published_at_once_metrics_each_minute_and_the_state_each_quarter_of_an_hour(monkeypatch):
    config, put = _put(monkeypatch)
    now = [10.0]
    monkeypatch.setattr("nitrokit.host.publish.time.monotonic", lambda: now[0])
    publisher = publish.Publisher(config)

    def at(seconds, enclave="e-1", *, wanted=True):
        now[0] = 10.0 + seconds
        put.clear()
        if enclave:
            publisher.healthy({"enclave": {"EnclaveID": enclave}, "restarts": 3}, wanted=wanted)
        else:
            publisher.unhealthy(AgentError("unhealthy", "not well"))
        return [action for _, action, _ in put]

    metrics, state = ["put-log-events"], ["put-parameter", "put-compliance-items"]
    assert at(0) == metrics + state
    assert [at(seconds) for seconds in (5, 59.9, 60, 65, 119.9, 120)] == [[], [], metrics, [], [], metrics]
    (line,) = (json.loads(event["message"]) for _, _, request in put for event in request["logEvents"])
    assert (line["EnclaveHealthy"], line["AppRestarts"]) == (1.0, 3.0)
    assert [at(899.9), at(900), at(905)] == [metrics, state, []]
    assert [at(910, ""), at(915, ""), at(920), at(925, "e-2"), at(930, "e-2", wanted=False)] == [
        metrics + state,
        [],
        *[metrics + state] * 3,
    ]
    assert [json.loads(request["Value"]) | {"at": 0} for _, action, request in put if action == "put-parameter"] == [
        {
            "enclave": "hello", "instance": "i-1", "status": "outdated", "reason": "another configuration was deployed than the one that runs", "enclave_id": "e-2",
            "image": "00" * 48, "at": 0,
        }
    ]  # fmt: skip
    at(935, "")
    (line,) = (json.loads(event["message"]) for _, action, request in put if action == "put-log-events" for event in request["logEvents"])
    assert (line["EnclaveHealthy"], "AppRestarts" in line) == (0.0, False)


def test_what_cannot_be_published_is_said_and_the_rest_is_published(monkeypatch, capsys):
    config, put = _put(monkeypatch)

    def refuse(service, action, request, what, *, timeout):
        if action == "put-parameter":
            raise AgentError("publish", f"{what} failed")
        put.append((service, action, request))

    monkeypatch.setattr(publish, "aws", refuse)
    publish.state(config, {"status": "running"})
    assert [action for _, action, _ in put] == ["put-compliance-items"]
    assert capsys.readouterr().err.startswith("not published (state): putting the parameter failed [agent/publish]")


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
