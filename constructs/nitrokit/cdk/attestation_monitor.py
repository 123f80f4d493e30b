"""AttestationMonitor: Lambdas that prove, at any time, which image every enclave runs."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Annotations, Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from constructs import Construct

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_verifier import AttestationVerifier, trust_environment
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.key_monitor import KeyMonitor
from nitrokit.cdk.known import need, need_each, need_one_environment, need_one_region, need_type, seconds
from nitrokit.cdk.monitor_function import LONGEST_SCHEDULE, FunctionOptions, MonitorFunction
from nitrokit.cdk.monitor_settings import MonitorSettings
from nitrokit.cdk.wildcards import acknowledge_wildcards
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

FOREIGN_ANCHOR = "@nitrokit/cdk:foreignTrustAnchor"
NAMESPACE, METRIC, SERVICE = "Nitrokit", "AttestationPassed", "check-enclaves"
_SCHEDULE = range(60, LONGEST_SCHEDULE + 1, 60)
_TIMEOUT, _LEASE_MARGIN = Duration.minutes(15), Duration.minutes(2)


class AttestationMonitor(Construct):
    """Asks every enclave of ``bootstraps`` for a fresh document, verifies it and appraises it against the locked measurements (docs/monitoring.md).

    - ``bootstraps``: the fleets: one enclave each, on a host or on a fleet of them, in this account and Region.
    - ``keys``: of the same stack; watched too: their policies and grants every 15 minutes and at every change, a try to decrypt without attestation every minute, an audit of their uses every hour
      (``key_monitor``). The canary becomes one of their data owners. Default: none.
    - ``ledger``: where every check is kept (docs/ledger.md), and with which the audit joins the keys' uses; default nowhere.
    - ``restore``: a key policy that is not as synthesised is put back, and grants are revoked; ``restore_role``: the keys' named administrator, assumed for it. Default: reported alone.
    - ``schedule``: how often; default every 15 minutes, a minute to three and a half days. Besides: when a host was bootstrapped, when this stack was deployed, when a key was changed.
    - ``alarm_topic``: where alarms go; default nowhere yet: ``monitor.alarms``.
    - ``topic``: where a run whose verdicts changed is told; default nowhere. Findings go to the account's event bus (source ``nitrokit``) in any case.
    - ``security_hub``: findings go to Security Hub too, which the account must use; default False.
    - ``trust_anchor``: the root of the documents; default AWS's root G1. Any other gives a warning (``@nitrokit/cdk:foreignTrustAnchor``): it is for local emulation.
    - ``runtime``: default Python 3.13; ``architecture``: default x86_64.

    ``function`` may also be invoked at any time, with ``{}`` or ``{"instances": [ids]}``; its answer tells what it found. ``verifier``: for documents that others bring. ``metrics``: for each
    enclave, 1 for a run in which all hosts passed, 0 for another. Raises ValueError for a schedule out of range, no fleet, two of one name, a key of another stack, an image
    that cannot attest on request, and a bootstrap, ledger or topic of another Region.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bootstraps: Sequence[EnclaveBootstrap],
        keys: Sequence[EnclaveKey] = (),
        ledger: AttestationLedger | None = None,
        restore: bool = False,
        restore_role: iam.IRole | None = None,
        schedule: Duration | None = None,
        alarm_topic: sns.ITopic | None = None,
        topic: sns.ITopic | None = None,
        security_hub: bool = False,
        trust_anchor: TrustAnchor = AWS_NITRO_ROOT_G1,
        runtime: lambda_.Runtime | None = None,
        architecture: lambda_.Architecture | None = None,
    ) -> None:
        super().__init__(scope, id)
        every = schedule or Duration.minutes(15)
        seconds("schedule", every, _SCHEDULE)
        if not bootstraps:
            raise ValueError("a monitor of nothing proves nothing; expected at least one EnclaveBootstrap")
        need(bool, restore=restore, security_hub=security_hub)
        need_each(EnclaveBootstrap, bootstraps=bootstraps)
        need_each(EnclaveKey, keys=keys)
        need_type(AttestationLedger, ledger=ledger)
        need_type(sns.ITopic, alarm_topic=alarm_topic, topic=topic)
        need_type(iam.IRole, restore_role=restore_role)
        for used in (*bootstraps, *([ledger] if ledger else [])):
            need_one_environment(self, used)
        for told in filter(None, (alarm_topic, topic)):
            need_one_region(self, told)
        for key in keys:
            _need_same_stack(self, key)
        self._warn_of(trust_anchor)
        self._bootstraps = list(bootstraps)
        options = FunctionOptions(runtime, architecture)
        self.settings = MonitorSettings(self, "Settings", bootstraps=bootstraps, keys=keys)
        self.state = self._make_state()
        environment = {
            **trust_environment(trust_anchor),
            **({"TOPIC_ARN": topic.topic_arn} if topic else {}),
            **({"SECURITY_HUB": "true"} if security_hub else {}),
        }
        self._check = self._make_check(environment, options)
        self.function = self._check.function
        self._allow_check(topic, security_hub)
        self.verifier = AttestationVerifier(self, "Verifier", settings=self.settings, trust_anchor=trust_anchor, options=options)
        if ledger is not None:
            self.function.add_environment("LEDGER_TABLE", ledger.table.table_name)
            ledger.grant_append(self._check.role)
        self.key_monitor = self._watch(keys, environment, options, restore, restore_role, ledger) if keys else None
        self._trigger(every)
        self.metrics = {one.image.name: self._metric(one.image.name, every) for one in bootstraps}
        self.alarms = [*self._check.alarms, *self.verifier.alarms, *(self._alarm(name, metric) for name, metric in self.metrics.items())]
        self.alarms += self.key_monitor.alarms if self.key_monitor else []
        if alarm_topic is not None:
            for alarm in self.alarms:
                alarm.add_alarm_action(actions.SnsAction(alarm_topic))

    def _warn_of(self, trust_anchor: TrustAnchor) -> None:
        if trust_anchor.der != AWS_NITRO_ROOT_G1.der:
            Annotations.of(self).add_warning_v2(
                FOREIGN_ANCHOR,
                f"attestation documents are trusted under {trust_anchor.name} (SHA-256 {trust_anchor.sha256}), not AWS's root",
            )

    def _make_state(self) -> dynamodb.Table:
        """One run at a time, and every enclave's last verdict: nothing that a next run does not bring back."""
        return dynamodb.Table(
            self,
            "State",
            partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(point_in_time_recovery_enabled=True),
            time_to_live_attribute="expiration",
            removal_policy=RemovalPolicy.DESTROY,
        )

    def _watch(
        self,
        keys: Sequence[EnclaveKey],
        environment: dict[str, str],
        options: FunctionOptions,
        restore: bool,
        restore_role: iam.IRole | None,
        ledger: AttestationLedger | None,
    ) -> KeyMonitor:
        return KeyMonitor(
            self, "Keys", keys=keys, settings=self.settings, state=self.state, environment=environment, options=options, restore=restore, restore_role=restore_role, ledger=ledger
        )  # fmt: skip

    def _make_check(self, environment: dict[str, str], options: FunctionOptions) -> MonitorFunction:
        lease = _TIMEOUT.plus(_LEASE_MARGIN).to_seconds()
        own = {
            "SETTINGS_PATH": self.settings.path,
            "SETTINGS_VERSION": self.settings.version,
            "STATE_TABLE": self.state.table_name,
            "LEASE_SECONDS": str(int(lease)),
        }
        return MonitorFunction(
            self,
            "Check",
            name="check_enclaves",
            description="Asks every enclave for a fresh attestation document and appraises it",
            environment={**environment, **own},
            options=options,
            timeout=_TIMEOUT,
            concurrency=1,
        )

    def _allow_check(self, topic: sns.ITopic | None, security_hub: bool) -> None:
        check, stack = self._check, Stack.of(self)
        self.settings.allow_reading(check)
        for bootstrap in self._bootstraps:
            check.allow("ssm:SendCommand", on=[check.arn("ssm", "document", bootstrap.attest_document.ref)])
            for target in bootstrap.parent.association_targets:
                check.allow_instances(target)
            reason = "each instance has a parameter of its own below this path, which goes when the instance has ended"
            check.allow_all_below(
                "ssm:GetParametersByPath",
                "ssm:DeleteParameters",
                service="ssm",
                resource="parameter",
                name=bootstrap.parameter[1:],
                reason=reason,
            )
        # These actions take no resource (Service Authorization Reference).
        check.allow("ssm:GetCommandInvocation", "ec2:DescribeInstances", on=["*"])
        check.allow(
            "dynamodb:GetItem",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
            "dynamodb:DeleteItem",
            "dynamodb:BatchGetItem",
            on=[self.state.table_arn],
        )
        check.allow("events:PutEvents", on=[check.arn("events", "event-bus", "default")])
        if topic is not None:
            topic.grant_publish(check.role)
            reason = "what SNS needs of an encrypted topic's key, as the CDK grants it"
            acknowledge_wildcards(check.role, "kms:GenerateDataKey*", reason=reason)
        if security_hub:
            check.allow("securityhub:BatchImportFindings", on=[check.arn("securityhub", "product", f"{stack.account}/default")])
        # Not on the role itself, whose policy the function waits for.
        itself = iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[self.function.function_arn])
        iam.Policy(self, "GoOn", roles=[check.role], statements=[itself])

    def _trigger(self, every: Duration) -> None:
        target = targets.LambdaFunction(self.function, dead_letter_queue=self._check.dead_letters, retry_attempts=8)
        events.Rule(self, "Schedule", schedule=events.Schedule.rate(every), targets=[target], description="Attests every enclave")
        associations = [one.association.attr_association_id for one in self._bootstraps]
        bootstrapped = events.EventPattern(
            source=["aws.ssm"],
            detail_type=["EC2 State Manager Instance Association State Change"],
            detail={"association-id": associations, "status": ["Success"]},
        )
        events.Rule(
            self,
            "Bootstrapped",
            event_pattern=bootstrapped,
            targets=[target],
            description="Attests the enclave of a host that was bootstrapped",
        )
        deployed = events.EventPattern(
            source=["aws.cloudformation"],
            detail_type=["CloudFormation Stack Status Change"],
            detail={"stack-id": [Stack.of(self).stack_id], "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]}},
        )
        if self.key_monitor is not None:
            self.key_monitor.changed.add_target(target)
        events.Rule(self, "Deployed", event_pattern=deployed, targets=[target], description="Attests every enclave after a deployment")

    def dimensions(self, enclave: str) -> dict[str, str]:
        """What this monitor's metrics of an enclave are told by (docs/monitoring.md)."""
        return {"service": SERVICE, "Enclave": enclave, "Monitor": self.settings.name}

    def _metric(self, enclave: str, every: Duration) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=NAMESPACE, metric_name=METRIC, dimensions_map=self.dimensions(enclave), statistic="Minimum", period=every
        )

    def _alarm(self, enclave: str, metric: cloudwatch.Metric) -> cloudwatch.Alarm:
        """Two runs in a row in which not every host passed, or none came."""
        return cloudwatch.Alarm(
            self,
            f"Alarm{enclave}",
            metric=metric,
            threshold=1,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            evaluation_periods=2,
            # A monitor that says nothing is no proof.
            treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
            alarm_description=f"The enclave {enclave} does not prove everywhere that it runs the locked image: invoke {self.function.function_name} and read its answer",
        )


def _need_same_stack(monitor: Construct, key: EnclaveKey) -> None:
    if Stack.of(key) is not Stack.of(monitor):
        raise ValueError(
            f"{key.node.path} is in another stack than {monitor.node.path}; expected the same: the key's policy names the canary's role, and the canary the key"
        )
