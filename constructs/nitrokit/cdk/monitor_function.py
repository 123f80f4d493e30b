"""One of the monitor's Lambdas: its role, logs, tracing, concurrency, dead letters and alarms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import Acknowledgment, ArnFormat, Duration, Stack, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk.bundling import bundle
from nitrokit.cdk.known import need, need_type, need_within
from nitrokit.cdk.wildcards import acknowledge_wildcards, finding

LONGEST_SCHEDULE = 302_400
"""Seconds: two periods are what an alarm looks back here, at most seven days (CloudWatch API Reference "PutMetricAlarm", EvaluationPeriods)."""
_LETTERS_KEPT, _PERIOD = Duration.days(14), Duration.minutes(5)
_CONCURRENCY = range(1, 100_001)
"""With none reserved a function never runs (AWS Lambda Developer Guide "Reserved concurrency")."""


@dataclass(frozen=True)
class FunctionOptions:
    """What all of a monitor's functions share. ``runtime``: default Python 3.13; ``architecture``: default x86_64; ``log_retention``: default a year."""

    runtime: lambda_.Runtime | None = None
    architecture: lambda_.Architecture | None = None
    log_retention: logs.RetentionDays = logs.RetentionDays.ONE_YEAR


class MonitorFunction(Construct):
    """The function ``name`` of lambda/. ``concurrency``: how many of it run at once. ``alarms``: of its errors, and of events that it could not handle (``dead_letters`` keeps them two weeks)."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        name: str,
        description: str,
        environment: Mapping[str, str],
        options: FunctionOptions,
        timeout: Duration,
        concurrency: int,
        memory_size: int = 512,
    ) -> None:
        super().__init__(scope, id)
        self._stack = Stack.of(self)
        need(FunctionOptions, options=options)
        need_type(lambda_.Runtime, runtime=options.runtime)
        need_type(lambda_.Architecture, architecture=options.architecture)
        need_within(_CONCURRENCY, concurrency=concurrency)
        self.dead_letters = self._make_queue()
        runtime, architecture = options.runtime or lambda_.Runtime.PYTHON_3_13, options.architecture or lambda_.Architecture.X86_64
        log_group = logs.LogGroup(self, "Logs", retention=options.log_retention)
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"), description=description)
        log_group.grant_write(self.role)
        code = bundle(name, python=runtime.name.removeprefix("python"), architecture=architecture.name)
        self.function = lambda_.Function(
            self,
            "Function",
            runtime=runtime,
            architecture=architecture,
            handler="index.handler",
            code=lambda_.Code.from_asset(str(code), asset_hash=code.stem),
            role=self.role,
            log_group=log_group,
            environment={**environment, "POWERTOOLS_SERVICE_NAME": name.replace("_", "-"), "POWERTOOLS_METRICS_NAMESPACE": "Nitrokit"},
            timeout=timeout,
            memory_size=memory_size,
            reserved_concurrent_executions=concurrency,
            tracing=lambda_.Tracing.ACTIVE,
            dead_letter_queue=self.dead_letters,
            # A run of many hosts is handed on by the function to itself, ever further along its cursor.
            recursive_loop=lambda_.RecursiveLoop.ALLOW,
            description=description,
        )
        self.alarms = self._make_alarms(name)
        self._acknowledge()

    def allow(self, *actions: str, on: list[str]) -> None:
        """Let the function call ``actions`` on the ARNs ``on``."""
        self.role.add_to_policy(iam.PolicyStatement(actions=list(actions), resources=on))

    def allow_all_below(
        self,
        *actions: str,
        service: str,
        resource: str,
        name: str,
        reason: str,
        conditions: Mapping[str, Any] | None = None,
        arn_format: ArnFormat = ArnFormat.SLASH_RESOURCE_NAME,
    ) -> None:
        """The same on every ``resource`` whose name begins with ``name``, knowingly: ``reason``."""
        arns = self._stack.format_arn(service=service, resource=resource, resource_name=f"{name}*", arn_format=arn_format)
        self.role.add_to_policy(iam.PolicyStatement(actions=list(actions), resources=[arns], conditions=conditions))
        acknowledge_wildcards(self.role, arns, reason=reason)

    def allow_instances(self, target: ssm.CfnAssociation.TargetProperty) -> None:
        """Let the function send commands to the instances of a parent, by id or by tag."""
        key, values = str(target.key), list(target.values)
        if key == "InstanceIds":
            self.allow("ssm:SendCommand", on=[self.arn("ec2", "instance", one) for one in values])
            return
        self.allow_all_below(
            "ssm:SendCommand",
            service="ec2",
            resource="instance",
            name="",
            reason="the instances of a fleet come and go; the condition is their tag",
            conditions={"StringEquals": {f"ssm:resourceTag/{key.removeprefix('tag:')}": values}},
        )
        self.allow("ec2:DescribeInstances", on=["*"])

    def arn(self, service: str, resource: str, name: str) -> str:
        """The ARN of something in this stack's account and Region."""
        return self._stack.format_arn(service=service, resource=resource, resource_name=name)

    def _make_queue(self) -> sqs.Queue:
        return sqs.Queue(self, "DeadLetters", encryption=sqs.QueueEncryption.SQS_MANAGED, enforce_ssl=True, retention_period=_LETTERS_KEPT)

    def _make_alarms(self, name: str) -> list[cloudwatch.Alarm]:
        title = name.replace("_", " ")
        errors = cloudwatch.Alarm(
            self,
            "Errors",
            metric=self.function.metric_errors(period=_PERIOD),
            threshold=1,
            evaluation_periods=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=f"{title} failed: read its log",
        )
        letters = cloudwatch.Alarm(
            self,
            "Unhandled",
            metric=self.dead_letters.metric_approximate_number_of_messages_visible(period=_PERIOD),
            threshold=1,
            evaluation_periods=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=f"{title} could not handle an event: it waits in the dead-letter queue",
        )
        return [errors, letters]

    def _acknowledge(self) -> None:
        runtime = "the runtime is the app's choice (context nitrokit:lambdaRuntime), of those that the pinned wheels and the local emulation support"
        wide = "X-Ray's writes, and what Service Authorization Reference says takes no resource"
        reasons = {"AwsSolutions-SQS3": "it is the dead-letter queue", "AwsSolutions-L1": runtime, finding("*"): wide}
        Validations.of(self).acknowledge(*(Acknowledgment(id=id, reason=reason) for id, reason in reasons.items()))
