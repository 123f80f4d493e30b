"""The handler of check_enclaves: what it reads, emits, tells and hands on; Systems Manager's two calls are played, all else is moto."""

import base64
import json
from datetime import timedelta
from types import SimpleNamespace

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import NitrokitError
from nitrokit.handlers import check_enclaves
from nitrokit.handlers.clients import RETRIES
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.run_state import EVERYTHING
from nitrokit.handlers.run_store import Remembered, RunStore
from nitrokit.handlers.settings import Fleet
from nitrokit.handlers.triggers import trigger_of

ROLE = "arn:aws:iam::123456789012:role/host"
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:check"


def instance(number):
    return f"i-{number:017x}"


def _context(request, left=900_000):
    return SimpleNamespace(
        aws_request_id=request, invoked_function_arn=ARN, function_name="check", get_remaining_time_in_millis=lambda: left
    )


@pytest.fixture
def deployed(aws, site, pki, measurements, monkeypatch):
    """The environment that AttestationMonitor gives; ``invoke``: the handler on a fleet of these hosts. Returns also what the function invoked."""
    topic = aws.client("sns").create_topic(Name="t")["TopicArn"]
    queue = aws.client("sqs").create_queue(QueueName="told")["QueueUrl"]
    aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:eu-west-1:123456789012:told")
    environment = {
        "SETTINGS_PATH": "/nitrokit/x", "STATE_TABLE": "state", "LEDGER_TABLE": "ledger", "LEASE_SECONDS": "1020", "TOPIC_ARN": topic, "POWERTOOLS_TRACE_DISABLED": "true",
        "TRUST_ANCHOR": base64.b64encode(pki.trust_anchor.der).decode(),
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    real, invoked = boto3.client, []

    def invoke(hosts, event=None, request="1", left=900_000):
        fleet = {
            "name": "hello", "document": "attest", "host_role_arn": ROLE, "targets": [{"key": "InstanceIds", "values": list(hosts)}],
            "reference": json.loads(ReferenceValues(measurements).to_json()), "states": "/nitrokit/states",
        }  # fmt: skip
        real("ssm").put_parameter(Name="/nitrokit/x/fleets/hello", Value=json.dumps(fleet), Type="String", Overwrite=True)
        ssm = site(hosts).ssm
        function = SimpleNamespace(invoke=lambda **request: invoked.append(json.loads(request["Payload"])))

        def client(service, **options):
            return ssm if service == "ssm" and "config" in options else function if service == "lambda" else real(service, **options)

        monkeypatch.setattr("boto3.client", client)
        try:
            return check_enclaves.handler(event or {}, _context(request, left))
        finally:
            monkeypatch.setattr("boto3.client", real)

    def told():
        messages = real("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(json.loads(one["Body"])["Message"]) for one in messages]

    return SimpleNamespace(invoke=invoke, told=told, invoked=invoked)


def _metrics(capsys):
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    found = {}
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], sorted(directive["Dimensions"][0])) == ("Nitrokit", ["Enclave", "Monitor", "service"])
        assert line["Monitor"] == "x"
        (name,) = [one["Name"] for one in directive["Metrics"]]
        found[name] = line[name][0]
    return found


def test_a_run_answers_emits_and_tells_what_changed_once(deployed, honest, capsys):
    hosts = {instance(0): honest(0), instance(1): honest(1)}
    answer = deployed.invoke(hosts)
    assert (answer["status"], answer["verdict"], answer["totals"], answer["failures"]) == ("complete", "PASS", {"hello": {"PASS": 2}}, [])
    assert _metrics(capsys) == {
        "AttestationPassed": 1,
        "EnclavesChecked": 2,
        "EnclavesPassed": 2,
        "EnclavesFailed": 0,
        "EnclavesUnreachable": 0,
    }
    assert deployed.told() == []
    hosts[instance(0)] = honest(0, debug=True)
    hosts[instance(2)] = lambda nonce: "nothing"
    answer = deployed.invoke(hosts, request="2")
    assert (answer["verdict"], answer["totals"]) == ("FAIL", {"hello": {"PASS": 1, "FAIL": 1, "UNREACHABLE": 1}})
    assert _metrics(capsys)["AttestationPassed"] == 0
    (message,) = deployed.told()
    assert {one["instance_id"]: one["code"] for one in message["failures"]} == {
        instance(0): "appraisal/debug",
        instance(2): "check/unreachable",
    }
    deployed.invoke(hosts, request="3")
    assert deployed.told() == []
    json.dumps(answer)


def test_why_somebody_did_not_pass_is_in_the_log_for_the_dashboard(deployed, caplog):
    caplog.set_level("INFO")
    deployed.invoke({instance(0): lambda nonce: "nothing"})
    (line,) = [one for one in caplog.records if one.message == "checked"]
    assert (line.verdict, line.failures[0]["instance_id"], line.failures[0]["enclave"]) == ("UNREACHABLE", instance(0), "hello")
    assert "nothing" in line.failures[0]["reason"]


def test_a_fleet_without_hosts_has_proven_nothing(deployed, capsys):
    assert deployed.invoke({})["verdict"] == "UNREACHABLE"
    assert _metrics(capsys)["AttestationPassed"] == 0


def test_a_host_that_is_checked_by_itself_hides_no_missing_run_and_is_told_when_it_fails(deployed, honest, capsys):
    hosts = {instance(0): honest(0), instance(1): honest(1, debug=True)}
    assert deployed.invoke(hosts, event={"instances": [instance(0)]}, request="1")["verdict"] == "PASS"
    assert _metrics(capsys) == {}
    assert deployed.invoke(hosts, event={"instances": [instance(1)]}, request="2")["verdict"] == "FAIL"
    assert _metrics(capsys) == {"AttestationPassed": 0}


def test_little_time_left_hands_the_run_on_to_itself(deployed, honest, capsys):
    hosts = {instance(0): honest(0)}
    assert deployed.invoke(hosts, left=50_000)["status"] == "continues"
    assert deployed.invoked == [{"nitrokit:continue": True}]
    assert _metrics(capsys) == {}
    assert deployed.invoke(hosts, event=deployed.invoked[0], request="2")["status"] == "complete"


@pytest.fixture
def left_behind(aws, monkeypatch):
    """An hour ago an instance that EC2 knows no more put its state; is it still there?"""
    monkeypatch.setattr("nitrokit.handlers.ended.QUIET", timedelta(hours=-1))
    name = f"/nitrokit/states/{instance(9)}/hello"
    aws.client("ssm").put_parameter(Name=name, Value="{}", Type="String")
    return lambda: bool(aws.client("ssm").get_parameters(Names=[name])["Parameters"])


def test_a_whole_run_forgets_ended_instances_and_one_of_some_hosts_does_not(deployed, aws, honest, left_behind):
    hosts, store = {instance(0): honest(0)}, RunStore(aws.client("dynamodb"), "state")
    store.remember("hello", [(instance(9), Remembered("PASS", "run1", None))])
    deployed.invoke(hosts, event={"instances": [instance(0)]})
    assert left_behind()
    assert set(store.remembered("hello", [instance(0), instance(9)])) == {instance(0), instance(9)}
    deployed.invoke(hosts, request="2")
    assert not left_behind()
    assert set(store.remembered("hello", [instance(0), instance(9)])) == {instance(0)}


def test_what_cannot_be_forgotten_is_said_and_fails_no_run(deployed, honest, left_behind, monkeypatch, caplog):
    def denied(*_):
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "DeleteParameters")

    monkeypatch.setattr("nitrokit.handlers.check_enclaves.forget_ended", denied)
    answer = deployed.invoke({instance(0): honest(0)})
    assert (answer["status"], answer["verdict"], left_behind()) == ("complete", "PASS", True)
    assert [one.reason for one in caplog.records if "ended instances stay" in one.message] == [
        "An error occurred (AccessDeniedException) when calling the DeleteParameters operation: no"
    ]


# Triggers


@pytest.mark.parametrize(
    ("event", "scope", "scheduled"),
    [
        ({"detail-type": "Scheduled Event", "id": "e"}, (EVERYTHING,), True),
        ({"detail-type": "CloudFormation Stack Status Change", "id": "e"}, (EVERYTHING,), False),
        ({"detail-type": "AWS API Call via CloudTrail", "id": "e"}, (EVERYTHING,), False),
        (
            {
                "detail-type": "EC2 State Manager Instance Association State Change", "id": "e", "detail": {"instance-id": instance(1)},
                "resources": [f"arn:aws:ec2:eu-west-1:1:instance/{instance(1)}", "arn:aws:ssm:eu-west-1:1:document/d"],
            },
            (instance(1),), False,
        ),
        ({"detail-type": "EC2 State Manager Instance Association State Change", "id": "e"}, (EVERYTHING,), False),
        ({"instances": [instance(2)]}, (instance(2),), False),
        ({}, (EVERYTHING,), False),
    ],
)  # fmt: skip
def test_events_say_what_to_check(event, scope, scheduled):
    trigger = trigger_of(event, "request")
    assert trigger is not None
    assert (trigger.id, trigger.scope, trigger.scheduled) == ("e" if "id" in event else "request", scope, scheduled)
    assert trigger_of({"nitrokit:continue": True}, "request") is None


@pytest.mark.parametrize("wrong", ["i-0123456789abcdef0", [1], ["nonsense"], {"a": 1}, []])
def test_instances_by_hand_that_are_none_are_told(wrong):
    with pytest.raises(NitrokitError, match="check/instances"):
        trigger_of({"instances": wrong}, "request")


# Throttling, by botocore's own retries


def _ssm(answers):
    """A real client whose requests are answered from a list: a status and a body for each."""
    client = boto3.client("ssm", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x", config=RETRIES)
    seen: list[str] = []

    def answer(request, **_):
        status, body = answers[min(len(seen), len(answers) - 1)]
        seen.append(request.headers["X-Amz-Target"].decode().split(".")[-1])
        data = json.dumps(body).encode()
        return AWSResponse(
            request.url, status, {}, SimpleNamespace(read=lambda *_: data, stream=lambda **_: iter([data]), close=lambda: None)
        )

    client.meta.events.register("before-send.ssm.*", answer)
    return client, seen


THROTTLED = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})


@pytest.fixture
def fleet(measurements):
    return Fleet("hello", "attest", ROLE, {"InstanceIds": (instance(0),)}, ReferenceValues(measurements))


def test_throttled_calls_are_made_again(fleet, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    answered = (200, {"Status": "Success", "StandardOutputContent": '{"document": "ZA=="}', "StandardErrorContent": ""})
    client, seen = _ssm(
        [THROTTLED, THROTTLED, (200, {"Command": {"CommandId": "12345678-1234-1234-1234-123456789012"}}), THROTTLED, answered]
    )
    (answer,) = Hosts(client, None, sleep=lambda _: None).ask(fleet, [instance(0)])
    assert answer.document == b"d"
    assert seen == ["SendCommand"] * 3 + ["GetCommandInvocation"] * 2


def test_throttling_without_end_is_an_error_that_leaves_the_run_at_its_cursor(fleet, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    client, seen = _ssm([THROTTLED])
    with pytest.raises(ClientError, match="Throttling"):
        list(Hosts(client, None, sleep=lambda _: None).ask(fleet, [instance(0)]))
    assert len(seen) == 11  # the first, and ten again
