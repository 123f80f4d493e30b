"""AttestationMonitor: a Lambda that proves, at any time, which image an enclave runs."""

from __future__ import annotations

import base64
import json

from aws_cdk import Acknowledgment, Annotations, Duration, Stack, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from nitrokit.cdk.bundling import bundle
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

FOREIGN_ANCHOR = "@nitrokit/cdk:foreignTrustAnchor"
NAMESPACE, METRIC, SERVICE = "Nitrokit", "AttestationPassed", "check-enclave"


class AttestationMonitor(Construct):
    """Asks the enclave of ``bootstrap`` for a fresh document, verifies it and appraises it against the locked measurements.

    - ``schedule``: how often; default every 15 minutes, at least a minute.
    - ``trust_anchor``: the root of the documents; default AWS's root G1. Any other gives a warning (``@nitrokit/cdk:foreignTrustAnchor``): it is for local emulation.
    - ``runtime``: default Python 3.13; ``architecture``: default x86_64.

    ``function`` may also be invoked at any time; its answer is the verdict. ``metric``: 1 for a check that passed, 0 for one that did not. ``alarm``: two checks in a row failed, or none
    came; it has no action yet: ``monitor.alarm.add_alarm_action(…)``. Raises ValueError for a schedule below a minute.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bootstrap: EnclaveBootstrap,
        schedule: Duration | None = None,
        trust_anchor: TrustAnchor = AWS_NITRO_ROOT_G1,
        runtime: lambda_.Runtime | None = None,
        architecture: lambda_.Architecture | None = None,
    ) -> None:
        super().__init__(scope, id)
        every = schedule or Duration.minutes(15)
        if every.to_seconds() < 60:
            raise ValueError(f"schedule {every.to_seconds()} s is too short; expected at least 60 s")
        if trust_anchor.der != AWS_NITRO_ROOT_G1.der:
            Annotations.of(self).add_warning_v2(
                FOREIGN_ANCHOR,
                f"attestation documents are trusted under {trust_anchor.name} (SHA-256 {trust_anchor.sha256}), not AWS's root",
            )
        self.function = self._make_function(
            bootstrap, trust_anchor, runtime or lambda_.Runtime.PYTHON_3_13, architecture or lambda_.Architecture.X86_64
        )
        self._make_alarm(bootstrap, every)

    def _make_function(
        self, bootstrap: EnclaveBootstrap, trust_anchor: TrustAnchor, runtime: lambda_.Runtime, architecture: lambda_.Architecture
    ) -> lambda_.Function:
        log_group = logs.LogGroup(self, "Logs", retention=logs.RetentionDays.ONE_YEAR)
        python = runtime.name.removeprefix("python")
        function = lambda_.Function(
            self,
            "Function",
            runtime=runtime,
            architecture=architecture,
            handler="index.handler",
            code=lambda_.Code.from_asset(str(bundle("check_enclave", python=python, architecture=architecture.name))),
            role=self._make_role(bootstrap, log_group),
            log_group=log_group,
            environment=_environment(bootstrap, trust_anchor),
            timeout=Duration.minutes(1),
            memory_size=256,
            description=f"Attests the enclave {bootstrap.image.name}",
        )
        reason = "the runtime is the app's choice (context nitrokit:lambdaRuntime), of those that the pinned wheels and the local emulation support"
        Validations.of(function).acknowledge(Acknowledgment(id="AwsSolutions-L1", reason=reason))
        return function

    def _make_role(self, bootstrap: EnclaveBootstrap, log_group: logs.LogGroup) -> iam.Role:
        stack = Stack.of(self)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"), description="Checks attestation")
        document = stack.format_arn(service="ssm", resource="document", resource_name=bootstrap.attest_document.ref)
        instance = stack.format_arn(service="ec2", resource="instance", resource_name=_host(bootstrap).instance_id)
        role.add_to_policy(iam.PolicyStatement(actions=["ssm:SendCommand"], resources=[document, instance]))
        # This action takes no resource (Service Authorization Reference).
        role.add_to_policy(iam.PolicyStatement(actions=["ssm:GetCommandInvocation"], resources=["*"]))
        log_group.grant_write(role)
        reason = "ssm:GetCommandInvocation takes no resource (Service Authorization Reference)"
        Validations.of(role).acknowledge(Acknowledgment(id="AwsSolutions-IAM5[Resource::*]", reason=reason))
        return role

    def _make_alarm(self, bootstrap: EnclaveBootstrap, every: Duration) -> None:
        rule = events.Rule(
            self, "Schedule", schedule=events.Schedule.rate(every), description=f"Attests the enclave {bootstrap.image.name}"
        )
        rule.add_target(targets.LambdaFunction(self.function))
        self.metric = cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=METRIC,
            dimensions_map={"service": SERVICE, "Enclave": bootstrap.image.name, "InstanceId": _host(bootstrap).instance_id},
            statistic="Minimum",
            period=every,
        )
        self.alarm = cloudwatch.Alarm(
            self,
            "Alarm",
            metric=self.metric,
            threshold=1,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            evaluation_periods=2,
            # A monitor that says nothing is no proof.
            treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
            alarm_description=f"The enclave {bootstrap.image.name} does not prove that it runs the locked image: invoke {self.function.function_name} and read its answer",
        )


def _host(bootstrap: EnclaveBootstrap) -> EnclaveHost:
    if not isinstance(bootstrap.parent, EnclaveHost):
        raise ValueError(f"{bootstrap.node.path} runs on {type(bootstrap.parent).__name__}; expected an EnclaveHost")
    return bootstrap.parent


def _environment(bootstrap: EnclaveBootstrap, trust_anchor: TrustAnchor) -> dict[str, str]:
    """What the handler reads (nitrokit.handlers.check_enclave)."""
    measurements = bootstrap.image.measurements
    environment = {
        "INSTANCE_ID": _host(bootstrap).instance_id,
        "ENCLAVE": bootstrap.image.name,
        "DOCUMENT_NAME": bootstrap.attest_document.ref,
        "HOST_ROLE_ARN": bootstrap.parent.role.role_arn,
        "MEASUREMENTS": json.dumps([{f"PCR{index}": value.hex() for index, value in measurements.pcrs().items()}]),
    }
    if trust_anchor.der != AWS_NITRO_ROOT_G1.der:
        environment["TRUST_ANCHOR"] = base64.b64encode(trust_anchor.der).decode()
    return environment
