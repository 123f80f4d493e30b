"""FleetAdmission: new instances of a fleet go into service only when their enclaves have proven what they run."""

from __future__ import annotations

from collections.abc import Sequence

import jsii
from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from constructs import Construct, IValidation

from nitrokit.cdk.attestation_verifier import trust_environment
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import FLEET_TAG, EnclaveFleet
from nitrokit.cdk.known import need, need_each, seconds
from nitrokit.cdk.monitor_function import FunctionOptions, MonitorFunction
from nitrokit.cdk.monitor_settings import MonitorSettings
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

_TIMEOUT = range(60, 3601)
"""Seconds; a deployment waits at most an hour for a signal (CloudFormation User Guide "UpdatePolicy attribute", PauseTime)."""
_INVOCATION = Duration.minutes(15)


class FleetAdmission(Construct):
    """A Lambda that asks each new instance of ``fleet`` for fresh documents of all its enclaves, appraises them against the locks, and lets it into service; a deployment that replaces
    instances goes on only then. An instance that proves nothing in ``timeout`` is ended, and another one launched.

    - ``fleet``: of the same stack, one admission each. ``bootstraps``: of all its enclaves that can be asked; one that is not among them fails the synthesis.
    - ``timeout``: default 20 minutes, one to sixty.
    - ``concurrency``: how many instances are asked at once; default 10. Others wait.
    - ``trust_anchor``, ``runtime``, ``architecture``: as of AttestationMonitor.

    ``alarms``: of the function; they have no action yet. Raises ValueError for a ``timeout`` out of range, for bootstraps of another parent, or none, and for
    an image that cannot attest on request.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        fleet: EnclaveFleet,
        bootstraps: Sequence[EnclaveBootstrap],
        timeout: Duration | None = None,
        concurrency: int = 10,
        trust_anchor: TrustAnchor = AWS_NITRO_ROOT_G1,
        runtime: lambda_.Runtime | None = None,
        architecture: lambda_.Architecture | None = None,
    ) -> None:
        super().__init__(scope, id)
        wait = timeout or Duration.minutes(20)
        seconds("timeout", wait, _TIMEOUT)
        need(EnclaveFleet, fleet=fleet)
        need_each(EnclaveBootstrap, bootstraps=bootstraps)
        if not bootstraps or any(one.parent is not fleet for one in bootstraps):
            raise ValueError(f"{self.node.path} has no bootstrap, or one of another parent; expected those of {fleet.node.path}")
        if Stack.of(fleet) is not Stack.of(self):
            raise ValueError(f"{self.node.path} is in another stack than {fleet.node.path}; expected the same: each waits for the other")
        settings = MonitorSettings(self, "Settings", bootstraps=bootstraps)
        self._admit = self._make_function(fleet, settings, trust_anchor, FunctionOptions(runtime, architecture), concurrency)
        self.function = self._admit.function
        self.alarms = self._admit.alarms
        for bootstrap in bootstraps:
            self._admit.allow("ssm:SendCommand", on=[self._admit.arn("ssm", "document", bootstrap.attest_document.ref)])
        for target in fleet.association_targets:
            self._admit.allow_instances(target)
        settings.allow_reading(self._admit)
        self._allow_completion(fleet)
        fleet.await_admission(wait)
        self.node.add_validation(_All(fleet, bootstraps))
        # The rule first: an event of the fleet's first instances would be lost. So nothing here may refer to the group.
        fleet.auto_scaling_group.node.add_dependency(self._make_rule(fleet))

    def _make_function(
        self, fleet: EnclaveFleet, settings: MonitorSettings, trust_anchor: TrustAnchor, options: FunctionOptions, concurrency: int
    ) -> MonitorFunction:
        stack = Stack.of(self)
        environment = {
            **trust_environment(trust_anchor),
            "SETTINGS_PATH": settings.path,
            "SETTINGS_VERSION": settings.version,
            "STACK_NAME": stack.stack_name,
            "LOGICAL_ID": stack.get_logical_id(fleet.cfn_group),
        }
        return MonitorFunction(
            self,
            "Admit",
            name="admit_instance",
            description="Lets new parent instances into service when their enclaves are attested",
            environment=environment,
            options=options,
            timeout=_INVOCATION,
            concurrency=concurrency,
        )

    def _allow_completion(self, fleet: EnclaveFleet) -> None:
        self._admit.allow_all_below(
            "autoscaling:CompleteLifecycleAction",
            service="autoscaling",
            resource="autoScalingGroup",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
            name="",
            reason="the group waits for this function, so its name is not known; the condition is its tag",
            conditions={"StringEquals": {f"autoscaling:ResourceTag/{FLEET_TAG}": fleet.tag_value}},
        )
        self._admit.allow("cloudformation:SignalResource", on=[Stack.of(self).stack_id])

    def _make_rule(self, fleet: EnclaveFleet) -> events.Rule:
        pattern = events.EventPattern(
            source=["aws.autoscaling"],
            detail_type=["EC2 Instance-launch Lifecycle Action"],
            detail={"NotificationMetadata": [fleet.tag_value]},
        )
        target = targets.LambdaFunction(self.function, dead_letter_queue=self._admit.dead_letters, retry_attempts=8)
        return events.Rule(
            self, "Launched", event_pattern=pattern, targets=[target], description="Asks a new parent instance what its enclaves run"
        )


@jsii.implements(IValidation)
class _All:
    """An enclave that nobody asks would be in service unproven."""

    def __init__(self, fleet: EnclaveFleet, bootstraps: Sequence[EnclaveBootstrap]) -> None:
        self._fleet, self._asked = fleet, {one.image.name for one in bootstraps}

    @jsii.member(jsii_name="validate")
    def validate(self) -> list[str]:
        left = sorted(one.name for one in self._fleet.enclaves if one.attests and one.name not in self._asked)
        if not left:
            return []
        return [
            f"{', '.join(left)} of {self._fleet.node.path} would go into service without proof; expected the bootstraps of all its enclaves"
        ]
