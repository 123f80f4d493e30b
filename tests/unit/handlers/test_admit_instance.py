"""Who gets into service: fresh documents of emulated enclaves; Auto Scaling's and CloudFormation's calls against boto3's models."""

import base64
from datetime import datetime, timedelta

import boto3
import pytest
from botocore.stub import Stubber

from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.handlers.admit_instance import Admission, AdmissionError
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.settings import Fleet

ROLE = "arn:aws:iam::123456789012:role/host"
INSTANCE = f"i-{1:017x}"
DETAIL = {
    "LifecycleActionToken": "87654321-4321-4321-4321-210987654321",
    "AutoScalingGroupName": "fleet",
    "LifecycleHookName": "attested",
    "EC2InstanceId": INSTANCE,
    "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
}
COMPLETED = {
    "LifecycleHookName": "attested",
    "AutoScalingGroupName": "fleet",
    "LifecycleActionToken": DETAIL["LifecycleActionToken"],
    "LifecycleActionResult": "CONTINUE",
}
SIGNALLED = {"StackName": "stack", "LogicalResourceId": "Group", "UniqueId": INSTANCE, "Status": "SUCCESS"}


class Site:
    """``minutes``: how long an invocation may last; waiting takes no time."""

    def __init__(self, ssm, anchor, fleets, minutes=15):
        self.autoscaling = Stubber(boto3.client("autoscaling", region_name="eu-west-1"))
        self.cloudformation = Stubber(boto3.client("cloudformation", region_name="eu-west-1"))
        self.waited = 0.0
        self.minutes = minutes
        hosts = Hosts(ssm, None, sleep=self._sleep, monotonic=lambda: self.waited)
        self.admission = Admission(
            fleets, hosts, self.autoscaling.client, self.cloudformation.client, ("stack", "Group"), anchor, datetime.now, self._sleep
        )
        self.autoscaling.activate()
        self.cloudformation.activate()

    def _sleep(self, seconds):
        self.waited += seconds

    def admit(self):
        return self.admission.admit(DETAIL, lambda: timedelta(minutes=self.minutes) - timedelta(seconds=self.waited))

    def nothing_left(self):
        self.autoscaling.assert_no_pending_responses()
        self.cloudformation.assert_no_pending_responses()


@pytest.fixture
def fleet(measurements):
    return Fleet("hello", "attest", ROLE, {"tag:nitrokit:fleet": ("one",)}, ReferenceValues(measurements))


@pytest.fixture
def site(played_ssm, pki, fleet):
    return lambda hosts, **options: Site(played_ssm(hosts), pki.trust_anchor, [fleet], **options)


def test_an_attested_instance_goes_into_service_and_the_deployment_on(site, honest):
    one = site({INSTANCE: honest(1)})
    one.autoscaling.add_response("complete_lifecycle_action", {}, COMPLETED)
    one.cloudformation.add_response("signal_resource", {}, SIGNALLED)
    assert one.admit() == "admitted"
    one.nothing_left()


def test_an_instance_that_comes_up_late_is_waited_for(site, honest):
    tries = iter([{"Status": "Failed", "StandardErrorContent": "not up"}] * 3)
    answer = honest(1)
    one = site({INSTANCE: lambda nonce: next(tries, None) or answer(nonce)})
    one.autoscaling.add_response("complete_lifecycle_action", {}, COMPLETED)
    one.cloudformation.add_response("signal_resource", {}, SIGNALLED)
    assert one.admit() == "admitted"
    assert 30 <= one.waited < 120


def test_without_a_deployment_nobody_waits_for_the_signal(site, honest):
    one = site({INSTANCE: honest(1)})
    one.autoscaling.add_response("complete_lifecycle_action", {}, COMPLETED)
    one.cloudformation.add_client_error("signal_resource", "ValidationError", expected_params=SIGNALLED)
    assert one.admit() == "admitted"


def test_an_instance_that_is_gone_signals_nothing(site, honest):
    one = site({INSTANCE: honest(1)})
    one.autoscaling.add_client_error("complete_lifecycle_action", "ValidationError", expected_params=COMPLETED)
    assert one.admit() == "gone"
    one.nothing_left()


def test_a_refused_call_is_tried_again(site, honest):
    one = site({INSTANCE: honest(1)})
    one.autoscaling.add_client_error("complete_lifecycle_action", "AccessDenied")
    with pytest.raises(one.autoscaling.client.exceptions.ClientError):
        one.admit()


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("another image", "measurements"),
        ("debug", "debug"),
        ("another instance", ""),
        ("replayed", "nonce"),
        ("garbage", ""),
        ("silent", "not connected"),
    ],
)
def test_an_instance_that_proves_nothing_stays_out(site, honest, lie, reason):
    other = Measurements(digest([b"a"]), digest([b"b"]), digest([b"c"]))
    hosts = {
        "another image": {INSTANCE: honest(1, measurements=other)},
        "debug": {INSTANCE: honest(1, debug=True)},
        "another instance": {INSTANCE: honest(2)},
        "replayed": {INSTANCE: lambda nonce: honest(1)(b"an old nonce")},
        "garbage": {INSTANCE: lambda nonce: base64.b64encode(nonce).decode()},
        "silent": {},
    }[lie]
    one = site(hosts)
    with pytest.raises(AdmissionError) as caught:
        one.admit()
    assert caught.value.code == "admission/not-attested"
    assert reason in str(caught.value)
    assert one.waited > 12 * 60
    one.nothing_left()


def test_every_enclave_of_the_instance_must_pass(played_ssm, pki, fleet, honest):
    other = Fleet("other", "attest", ROLE, {}, ReferenceValues(Measurements(digest([b"o"]), digest([b"t"]), digest([b"h"]))))
    one = Site(played_ssm({INSTANCE: honest(1)}), pki.trust_anchor, [fleet, other])
    with pytest.raises(AdmissionError, match="other: ") as caught:
        one.admit()
    assert "hello: " not in str(caught.value)
