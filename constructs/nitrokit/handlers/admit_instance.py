"""The Lambda that lets a fleet's new instance into service when every enclave on it has proven, by attestation, which image it runs.

Environment: SETTINGS_PATH (below it, the fleets: one for each enclave); STACK_NAME and LOGICAL_ID of the Auto Scaling group; TRUST_ANCHOR only where it is not AWS's root.
Event: "EC2 Instance-launch Lifecycle Action" (Amazon EC2 Auto Scaling User Guide, "EventBridge event reference").
Answer: {"status": "admitted" | "gone", "instance_id"}. An instance that has proven nothing yet is an error, so that Lambda tries again later; in the end the hook's timeout ends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from botocore.exceptions import ClientError

from nitrokit.core.attestation import ChainCache, TrustAnchor
from nitrokit.errors import NitrokitError
from nitrokit.handlers import settings
from nitrokit.handlers.checked import check
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.settings import Fleet
from nitrokit.handlers.trust import trust_anchor
from nitrokit.handlers.verdict import PASS

PAUSE = timedelta(seconds=10)
_ROUND_TAKES = timedelta(seconds=90)

logger = Logger(service="admit-instance")
tracer = Tracer(service="admit-instance")


class AdmissionError(NitrokitError):
    """An instance that does not go into service."""

    area = "admission"


@dataclass(frozen=True)
class Admission:
    """``fleets``: the enclaves that every instance runs. ``autoscaling``, ``cloudformation``: boto3 clients; ``group``: the stack's name and the logical id of its Auto Scaling group."""

    fleets: Sequence[Fleet]
    hosts: Hosts
    autoscaling: Any
    cloudformation: Any
    group: tuple[str, str]
    trust_anchor: TrustAnchor
    clock: Callable[[tzinfo], datetime]
    sleep: Callable[[float], None] = time.sleep

    def admit(self, detail: Mapping[str, Any], time_left: Callable[[], timedelta]) -> str:
        """Ask each enclave of the instance until it passed; then complete the hook. Returns "admitted", or "gone" for an instance that nobody waits for. Raises AdmissionError."""
        instance_id = str(detail["EC2InstanceId"])
        waiting = {fleet.enclave: fleet for fleet in self.fleets}
        while True:
            reasons = {name: reason for name, fleet in waiting.items() if (reason := self._misses(fleet, instance_id)) is not None}
            waiting = {name: waiting[name] for name in reasons}
            if not waiting:
                return self._complete(detail, instance_id)
            if time_left() < _ROUND_TAKES:
                told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
                raise AdmissionError(
                    "not-attested",
                    f"{instance_id} has not proven what it runs",
                    got=told[:1000],
                    do="read the output of its SSM association",
                )
            self.sleep(PAUSE.total_seconds())

    def _misses(self, fleet: Fleet, instance_id: str) -> str | None:
        """Why an enclave did not pass; None: it did."""
        (answer,) = self.hosts.ask(fleet, [instance_id])
        checked = check(fleet, answer, trust_anchor=self.trust_anchor, time=self.clock(UTC), cache=ChainCache())
        return None if checked.verdict == PASS else checked.reason or checked.verdict

    def _complete(self, detail: Mapping[str, Any], instance_id: str) -> str:
        try:
            self.autoscaling.complete_lifecycle_action(
                LifecycleHookName=detail["LifecycleHookName"],
                AutoScalingGroupName=detail["AutoScalingGroupName"],
                LifecycleActionToken=detail["LifecycleActionToken"],
                LifecycleActionResult="CONTINUE",
            )
        except ClientError as error:
            _tolerate_validation(error)
            return "gone"
        self._signal(instance_id)
        return "admitted"

    def _signal(self, instance_id: str) -> None:
        """A deployment that replaces instances waits for this; without one there is nothing to signal."""
        stack, logical_id = self.group
        try:
            self.cloudformation.signal_resource(StackName=stack, LogicalResourceId=logical_id, UniqueId=instance_id, Status="SUCCESS")
        except ClientError as error:
            _tolerate_validation(error)


def _tolerate_validation(error: ClientError) -> None:
    if error.response["Error"]["Code"] != "ValidationError":
        raise error


@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler."""
    fleets = settings.fleets(boto3.client("ssm"), os.environ)
    admission = Admission(
        fleets=fleets,
        hosts=Hosts(boto3.client("ssm"), boto3.client("ec2")),
        autoscaling=boto3.client("autoscaling"),
        cloudformation=boto3.client("cloudformation"),
        group=(os.environ["STACK_NAME"], os.environ["LOGICAL_ID"]),
        trust_anchor=trust_anchor(os.environ),
        clock=datetime.now,
    )
    status = admission.admit(event["detail"], lambda: timedelta(milliseconds=context.get_remaining_time_in_millis()))
    answer = {"status": status, "instance_id": event["detail"]["EC2InstanceId"]}
    logger.info("launch", **answer)
    return answer
