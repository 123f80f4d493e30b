"""What ended instances leave goes; Systems Manager, EC2 and DynamoDB are moto's."""

from datetime import UTC, datetime, timedelta

import pytest

from nitrokit.core.reference_values import ReferenceValues
from nitrokit.handlers.ended import QUIET, forget_ended
from nitrokit.handlers.run_store import Remembered, RunStore
from nitrokit.handlers.settings import Fleet

STATES = "/nitrokit/stack-bootstrap"
UNKNOWN = f"i-{0xE:017x}"


class Failing:
    """Systems Manager, which loses the connection when it is to delete."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)

    def delete_parameters(self, **_):
        raise ConnectionError


@pytest.fixture
def account(aws, measurements):
    """Clients, and a function that runs ``forget_ended`` at a time from now and returns (forgotten, what is left)."""

    class Account:
        ssm, ec2, store = aws.client("ssm"), aws.client("ec2"), RunStore(aws.client("dynamodb"), "state")

        def run(self, count=1):
            image = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
            return [one["InstanceId"] for one in self.ec2.run_instances(ImageId=image, MinCount=count, MaxCount=count)["Instances"]]

        def put(self, *names):
            for name in names:
                self.ssm.put_parameter(Name=name, Value="{}", Type="String", Overwrite=True)

        def forget(self, after=QUIET + timedelta(minutes=1), states=STATES):
            fleet = Fleet("hello", "attest", "role", {}, ReferenceValues(measurements), states)
            forgotten = forget_ended(self.ssm, self.ec2, [fleet], datetime.now(UTC) + after, self.store.forget)
            pages = self.ssm.get_paginator("get_parameters_by_path").paginate(Path="/", Recursive=True)
            return sorted(forgotten), {one["Name"] for page in pages for one in page["Parameters"]}

    return Account()


def test_terminated_and_unknown_instances_are_forgotten_and_no_others(account):
    running, stopped, ended = account.run(3)
    account.ec2.stop_instances(InstanceIds=[stopped])
    account.ec2.terminate_instances(InstanceIds=[ended])
    left = [f"{STATES}/{running}/hello", f"{STATES}/{stopped}/hello", f"{STATES}2/{ended}/hello", f"{STATES}/notes/hello", "/theirs"]
    gone = sorted([f"{STATES}/{ended}/hello", f"{STATES}/{UNKNOWN}/hello"])
    account.put(*left, *gone)
    assert account.forget() == (gone, set(left))


def test_their_verdicts_go_too_and_before_what_the_next_run_finds_them_by(account):
    running, ended = account.run(2)
    account.ec2.terminate_instances(InstanceIds=[ended])
    account.put(*(f"{STATES}/{one}/hello" for one in (running, ended)))
    verdict = Remembered("PASS", "run1", None)
    for enclave in ("hello", "another"):
        account.store.remember(enclave, [(running, verdict), (ended, verdict)])
    account.ssm = Failing(account.ssm)
    with pytest.raises(ConnectionError):
        account.forget()
    assert account.store.remembered("hello", [running, ended]) == {running: verdict}
    account.ssm = account.ssm.client
    assert account.forget() == ([f"{STATES}/{ended}/hello"], {f"{STATES}/{running}/hello"})
    assert set(account.store.remembered("another", [running, ended])) == {running, ended}, "another fleet's"


def test_an_instance_that_ec2_does_not_tell_of_yet_keeps_its_state(account):
    account.put(f"{STATES}/{UNKNOWN}/hello")
    assert account.forget(after=timedelta(minutes=50)) == ([], {f"{STATES}/{UNKNOWN}/hello"})


def test_many_are_forgotten_in_as_many_calls_as_it_takes(account):
    names = [f"{STATES}/i-{number:017x}/hello" for number in range(223)]
    account.put(*names)
    assert account.forget() == (names, set())


def test_without_a_path_nothing_is_looked_at(account):
    account.put(f"/{UNKNOWN}/hello")
    assert account.forget(states="") == ([], {f"/{UNKNOWN}/hello"})
