"""check_enclaves as a real process, killed by SIGKILL right after each of its writes has happened, before it has the answer; its retry goes on. Nothing is lost, nothing counted twice.

AWS is moto's server; Systems Manager's two calls are played in front of it. The process is forked from one that has imported everything, as a sandbox starts warm.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import boto3
import pytest

from nitrokit.core.ledger import parse_record
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.handlers.ledger_store import Ledger

REGION, ROLE = "eu-north-1", "arn:aws:iam::123456789012:role/host"
WRITES = ("PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "PutEvents", "Publish")
HOSTS = [f"i-{number:017x}" for number in range(3)]

_SANDBOX = f"""
import boto3, json, os, sys, traceback
from types import SimpleNamespace
from nitrokit.handlers import check_enclaves, hosts
hosts._POLLS = (0.01,)
for name in ("dynamodb", "ec2", "events", "lambda", "sns", "ssm"):  # so that the models are read once
    boto3.client(name)
for line in sys.stdin:
    request = json.loads(line)
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        context = SimpleNamespace(
            aws_request_id=request, function_name="check", invoked_function_arn="arn:aws:lambda:{REGION}:123456789012:function:check", get_remaining_time_in_millis=lambda: 900_000
        )
        try:
            answer = check_enclaves.handler({{}}, context)
        except Exception:
            answer = {{"error": traceback.format_exc()}}
        os.write(1, b"@" + json.dumps(answer).encode() + b"\\n")
        os._exit(0)
    print("#", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


class Cloud:
    """moto's server with the played Systems Manager; ``victim``: kill this process after the ``fatal``th write."""

    def __init__(self, ssm):
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):  # type: ignore[misc]
            def log(self, *_):
                pass

        self._moto, self._ssm = DomainDispatcherApplication(create_backend_app), ssm
        self.writes, self.fatal, self.victim, self.continued = [], 0, 0, 0
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ, start):
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        if operation in ("SendCommand", "GetCommandInvocation"):
            return self._played(operation, json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))), start)
        if environ["PATH_INFO"].endswith("/functions/check/invocations"):
            self.continued += 1
            start("202 Accepted", [])
            return []
        answer = list(self._moto(environ, start))
        if not operation and b"PublishResponse" in b"".join(answer):
            operation = "Publish"
        if operation in WRITES:
            self.writes.append(operation)
            if len(self.writes) == self.fatal:
                os.kill(self.victim, signal.SIGKILL)
        return answer

    def _played(self, operation, request, start):
        from botocore.exceptions import ClientError

        call = {"SendCommand": self._ssm.send_command, "GetCommandInvocation": self._ssm.get_command_invocation}[operation]
        try:
            status, body = "200 OK", call(**request)
        except ClientError as error:
            status, body = "400 Error", {"__type": error.response["Error"]["Code"]}
        start(status, [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(body).encode()]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Sandbox:
    """Invokes the function, each time in a new process."""

    def __init__(self, cloud, environment):
        self._cloud = cloud
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SANDBOX],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def _say(self, line):
        self._to.write(line + "\n")
        self._to.flush()

    def invoke(self, request, fatal=0):
        """(exit code, answer), killed after the ``fatal``th write."""
        self._say(json.dumps(request))
        self._cloud.victim = int(self._from.readline())
        self._cloud.writes, self._cloud.fatal = [], fatal
        self._say("go")
        answer = None
        while not (line := self._from.readline()).startswith("#"):
            answer = json.loads(line[1:]) if line.startswith("@") else answer
        return int(line.split()[1]), answer

    def close(self):
        self._to.close()
        self._process.wait()
        self._from.close()


@pytest.fixture(scope="module")
def client():
    return lambda service, cloud: boto3.client(
        service, region_name=REGION, endpoint_url=cloud.url, aws_access_key_id="x", aws_secret_access_key="x"
    )


@pytest.fixture
def site(played_ssm, honest, measurements, pki, make_ledger_table, client):
    """(two sandboxes, cloud, what was told, the ledger): an honest enclave, one in debug mode, one host without a document."""
    ssm = played_ssm({HOSTS[0]: honest(0), HOSTS[1]: honest(1, debug=True), HOSTS[2]: lambda nonce: "nothing"})
    cloud = Cloud(ssm)
    dynamodb = client("dynamodb", cloud)
    make_ledger_table(dynamodb)
    key = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    }
    dynamodb.create_table(TableName="state", BillingMode="PAY_PER_REQUEST", **key)
    queues = {name: client("sqs", cloud).create_queue(QueueName=name)["QueueUrl"] for name in ("topic", "events")}
    arns = {name: f"arn:aws:sqs:{REGION}:123456789012:{name}" for name in queues}
    topic = client("sns", cloud).create_topic(Name="t")["TopicArn"]
    client("sns", cloud).subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arns["topic"])
    client("events", cloud).put_rule(Name="all", EventPattern=json.dumps({"source": ["nitrokit"]}))
    client("events", cloud).put_targets(Rule="all", Targets=[{"Id": "q", "Arn": arns["events"]}])
    fleet = {
        "name": "hello", "document": "attest", "host_role_arn": ROLE, "targets": [{"key": "InstanceIds", "values": HOSTS}],
        "reference": json.loads(ReferenceValues(measurements).to_json()),
    }  # fmt: skip
    client("ssm", cloud).put_parameter(Name="/nitrokit/x/fleets/hello", Value=json.dumps(fleet), Type="String")
    environment = {
        "PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": cloud.url, "AWS_DEFAULT_REGION": REGION, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "SETTINGS_PATH": "/nitrokit/x", "STATE_TABLE": "state", "LEDGER_TABLE": "ledger", "LEASE_SECONDS": "1020", "TOPIC_ARN": topic, "POWERTOOLS_TRACE_DISABLED": "true",
        "TRUST_ANCHOR": base64.b64encode(pki.trust_anchor.der).decode(),
    }  # fmt: skip

    def told(name):
        sqs, found = client("sqs", cloud), []
        while messages := sqs.receive_message(QueueUrl=queues[name], MaxNumberOfMessages=10).get("Messages"):
            found += [json.loads(one["Body"]) for one in messages]
            for one in messages:
                sqs.delete_message(QueueUrl=queues[name], ReceiptHandle=one["ReceiptHandle"])
        return found

    sandboxes = [Sandbox(cloud, environment) for _ in range(2)]
    yield sandboxes, cloud, told, Ledger("ledger", dynamodb)
    for one in sandboxes:
        one.close()
    for table in ("state", "ledger"):
        dynamodb.delete_table(TableName=table)
    for url in queues.values():
        client("sqs", cloud).delete_queue(QueueUrl=url)
    client("sns", cloud).delete_topic(TopicArn=topic)
    client("events", cloud).remove_targets(Rule="all", Ids=["q"])
    client("events", cloud).delete_rule(Name="all")
    client("ssm", cloud).delete_parameter(Name="/nitrokit/x/fleets/hello")
    cloud.close()


def _entries(ledger, start):
    return [parse_record(data).entry for data in ledger.records(start, ledger.head().frontier.size)]


def test_a_killed_process_loses_nothing_and_its_retry_counts_nothing_twice(site, client):
    (sandbox, _), cloud, told, ledger = site
    totals = {"hello": {"PASS": 1, "FAIL": 1, "UNREACHABLE": 1}}
    assert sandbox.invoke("first")[1].get("totals") == totals
    told("topic"), told("events")
    seen = set()
    for fatal in count(1):
        for number in (1, 2):  # what failed was not known yet: it is told of anew
            client("dynamodb", cloud).delete_item(TableName="state", Key={"id": {"S": f"verdict/hello/{HOSTS[number]}"}})
        before = ledger.head().frontier.size
        code, answer = sandbox.invoke(f"request{fatal}", fatal)
        killed_at = cloud.writes[-1]
        if code == 0:
            break
        seen.add(killed_at)
        code, answer = sandbox.invoke(f"request{fatal}")
        assert answer.get("status") in ("complete", "idle"), (fatal, answer)  # idle: all was done, and only the last answer not heard
        entries = _entries(ledger, before)
        assert Counter(one.host for one in entries) == Counter(HOSTS), fatal
        assert len({one.entry_id.split("/")[0] for one in entries}) == 1, "one run"
        assert {one["detail"]["instance_id"] for one in told("events")} == {HOSTS[1], HOSTS[2]}, fatal
        messages = [json.loads(one["Message"]) for one in told("topic")]
        assert [one["totals"] for one in messages] == [totals] * (2 if killed_at == "Publish" else 1), fatal
        assert len({one["run_id"] for one in messages}) == 1
    assert seen >= {"PutItem", "TransactWriteItems", "PutEvents", "Publish", "UpdateItem"}
    assert answer["totals"] == totals


def test_processes_that_race_share_the_runs_and_write_each_entry_once(site):
    """Two processes at a time, each asked by triggers of its own, over DynamoDB's conditional writes."""
    sandboxes, _, _, ledger = site
    with ThreadPoolExecutor(2) as both:
        for number in range(4):
            answers = [answer for _, answer in both.map(lambda one, name: one.invoke(name), sandboxes, (f"a{number}", f"b{number}"))]
            assert {one.get("status") for one in answers} <= {"complete", "busy", "idle"}, answers
            assert "complete" in {one["status"] for one in answers}
    assert sandboxes[0].invoke("last")[1]["status"] == "complete", "whatever waited has its run"
    runs = [one.entry_id.split("/")[0] for one in _entries(ledger, 0)]
    assert set(Counter(runs).values()) == {len(HOSTS)}
    assert [one.host for one in _entries(ledger, 0)].count(HOSTS[0]) == len(set(runs))
