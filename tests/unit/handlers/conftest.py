"""A fleet of emulated enclaves behind Systems Manager's two calls, played; DynamoDB, EventBridge, SNS, Security Hub and EC2 are moto's."""

import base64
import json
from datetime import datetime, timedelta
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError

from nitrokit.core.attestation import ChainCache
from nitrokit.core.nonces import enclave_nonce
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.handlers.checker import Checker, Reporting
from nitrokit.handlers.findings import Account, Finding, Publisher
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.run_state import RunState
from nitrokit.handlers.run_store import RunStore
from nitrokit.handlers.settings import Fleet

ROLE = "arn:aws:iam::123456789012:role/host"
ACCOUNT = Account("aws", "eu-west-1", "123456789012")


def instance(number):
    return f"i-{number:017x}"


class _InvalidInstanceId(ClientError):  # type: ignore[misc]
    def __init__(self):
        super().__init__({"Error": {"Code": "InvalidInstanceId"}}, "SendCommand")


class _InvocationDoesNotExist(ClientError):  # type: ignore[misc]
    def __init__(self):
        super().__init__({"Error": {"Code": "InvocationDoesNotExist"}}, "GetCommandInvocation")


class PlayedSsm:
    """``hosts``: instance id → what its agent prints when given the derived nonce; an instance that is not there is not connected. The first poll finds nothing, as in reality."""

    exceptions = SimpleNamespace(InvalidInstanceId=_InvalidInstanceId, InvocationDoesNotExist=_InvocationDoesNotExist)

    def __init__(self, hosts):
        self.hosts, self.commands, self.polled = hosts, [], set()
        self.before_send = lambda: None
        self.bases = []

    def send_command(self, *, InstanceIds, DocumentName, Parameters, TimeoutSeconds, MaxConcurrency, MaxErrors):
        assert 1 <= len(InstanceIds) <= 50
        assert (DocumentName, Parameters["NonceFor"], MaxErrors) == ("attest", ["instance"], "100%")
        self.before_send()
        if not set(InstanceIds) <= set(self.hosts):
            raise _InvalidInstanceId()
        base = base64.b64decode(Parameters["Nonce"][0], validate=True)
        self.bases.append(base)
        self.commands.append((InstanceIds, base))
        return {"Command": {"CommandId": f"{len(self.commands) - 1:036}"}}

    def get_command_invocation(self, *, CommandId, InstanceId):
        if (CommandId, InstanceId) not in self.polled:
            self.polled.add((CommandId, InstanceId))
            raise _InvocationDoesNotExist()
        base = self.commands[int(CommandId)][1]
        answer = self.hosts[InstanceId](enclave_nonce(base, InstanceId, "hello"))
        found = {"Status": "Success", "StandardOutputContent": "", "StandardErrorContent": ""}
        return {**found, **(answer if isinstance(answer, dict) else {"StandardOutputContent": answer})}


def printed(document):
    return json.dumps({"document": base64.b64encode(document).decode(), "enclave_id": "x"})


@pytest.fixture
def played_ssm():
    return PlayedSsm


@pytest.fixture
def aws(dynamodb, monkeypatch):
    """boto3 on moto, with the tables of the state and of the ledger."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", dynamodb.meta.region_name)
    new_state(dynamodb)
    return boto3


def new_state(client):
    """The table of the state as AttestationMonitor makes it."""
    attributes = [{"AttributeName": "id", "AttributeType": "S"}]
    client.create_table(
        TableName="state",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=attributes,
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.fixture
def honest(make_nsm):
    """A host whose agent prints its enclave's document."""

    def make(number, **changes):
        client = NsmClient(make_nsm(**{"module_id": f"{instance(number)}-enc{number:016x}", **changes}).answer)
        return lambda nonce: printed(client.attestation(nonce=nonce))

    return make


class Site:
    """One fleet with all that checking it needs; ``checker()`` is what one invocation makes."""

    def __init__(self, aws, pki, measurements, hosts):
        self.aws, self.ssm, self.anchor = aws, PlayedSsm(hosts), pki.trust_anchor
        self.fleets = [Fleet("hello", "attest", ROLE, {"InstanceIds": tuple(hosts)}, ReferenceValues(measurements))]
        self.store = RunStore(aws.client("dynamodb"), "state")
        self.ledger = Ledger("ledger", aws.client("dynamodb"), sleep=lambda _: None)
        self.published: list[Finding] = []
        self.finished: list[RunState] = []
        self.time = timedelta()
        self.publish = lambda findings, time: self.published.extend(findings)
        self.runs = 0

    def forget(self):
        """A state table as new; the ledger stays."""
        client = self.aws.client("dynamodb")
        client.delete_table(TableName="state")
        new_state(client)

    def checker(self):
        self.seconds = 0.0

        def sleep(seconds):
            self.seconds += seconds

        hosts = Hosts(self.ssm, self.aws.client("ec2"), sleep=sleep, monotonic=lambda: self.seconds)
        reporting = Reporting(self.publish, self.finished.append, "arn:aws:ec2:eu-west-1:123456789012:instance/".__add__, self.ledger)
        return Checker(
            self.fleets,
            hosts,
            self.store,
            reporting,
            self.anchor,
            lambda zone: datetime.now(zone) + self.time,
            timedelta(minutes=17),
            ChainCache(),
        )

    def run(self, trigger, owner="request", left=timedelta(minutes=15)):
        self.runs += 1
        return self.checker().handle(trigger, owner, lambda: left, f"run{self.runs}")

    def entries(self):
        from nitrokit.core.ledger import parse_record

        return [parse_record(data).entry for data in self.ledger.records(0, self.ledger.head().frontier.size)]


@pytest.fixture
def site(aws, pki, measurements):
    return lambda hosts: Site(aws, pki, measurements, hosts)


@pytest.fixture
def publisher(aws):
    """(a publisher to moto, what EventBridge delivered)."""
    events, sqs = aws.client("events"), aws.client("sqs")
    queue = sqs.create_queue(QueueName="q")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["nitrokit"]}))
    events.put_targets(Rule="all", Targets=[{"Id": "q", "Arn": arn}])
    aws.client("securityhub").enable_security_hub()

    def delivered():
        found = []
        while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            found += [json.loads(one["Body"]) for one in messages]
            for one in messages:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=one["ReceiptHandle"])
        return found

    return Publisher(ACCOUNT, events, aws.client("securityhub")), delivered
