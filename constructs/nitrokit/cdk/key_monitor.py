"""KeyMonitor: Lambdas that watch EnclaveKeys: their policies and grants, that nobody gets in without attestation, and who did get in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Acknowledgment, Duration, Stack, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from constructs import Construct

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.key_aliases import arns_with_aliases
from nitrokit.cdk.monitor_function import FunctionOptions, MonitorFunction
from nitrokit.cdk.monitor_settings import MonitorSettings

CHANGES = (
    "CancelKeyDeletion", "CreateAlias", "CreateGrant", "DeleteAlias", "DisableKey", "EnableKey", "ImportKeyMaterial", "PutKeyPolicy", "ReplicateKey", "RetireGrant", "RevokeGrant",
    "ScheduleKeyDeletion", "UpdateAlias", "UpdatePrimaryRegion",
)  # fmt: skip
"""What CloudTrail tells of that can change who opens data, or whether anybody can."""


class KeyMonitor(Construct):
    """Part of AttestationMonitor. ``changed``: the rule that matches changes of the keys in CloudTrail's events, which the account must have a trail for."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        keys: Sequence[EnclaveKey],
        settings: MonitorSettings,
        state: dynamodb.Table,
        environment: Mapping[str, str],
        options: FunctionOptions,
        restore: bool,
        restore_role: iam.IRole | None,
        ledger: AttestationLedger | None,
    ) -> None:
        super().__init__(scope, id)
        self._keys, self._settings, self._state = list(keys), settings, state
        self._common = {"SETTINGS_PATH": settings.path, "STATE_TABLE": state.table_name, **environment}
        self.guard = self._make("Guard", "guard_key_policy", "Compares deployed key policies with the synthesised ones", options)
        self._allow_guard(restore, restore_role)
        self.canary = self._make("Canary", "key_canary", "Tries to decrypt without attestation, which must be denied", options)
        self._allow_canary()
        self.audit = self._make("Audit", "audit", "Tells who decrypted what with which image", options)
        self._allow_audit(ledger)
        self.changed = self._trigger()
        made = [*self.guard.alarms, *self.canary.alarms, *self.audit.alarms]
        self.alarms: list[cloudwatch.Alarm] = [*made, *self._key_alarms(), self._use_alarm()]

    def _make(self, id: str, name: str, description: str, options: FunctionOptions) -> MonitorFunction:
        function = MonitorFunction(
            self,
            id,
            name=name,
            description=description,
            environment=self._common,
            options=options,
            timeout=Duration.minutes(1 if name == "key_canary" else 15),
            concurrency=1,
        )
        self._settings.allow_reading(function)
        function.allow("events:PutEvents", on=[function.arn("events", "event-bus", "default")])
        if self._common.get("SECURITY_HUB"):
            function.allow(
                "securityhub:BatchImportFindings", on=[function.arn("securityhub", "product", f"{Stack.of(self).account}/default")]
            )
        return function

    @property
    def _arns(self) -> list[str]:
        return [key.key_arn for key in self._keys]

    def _allow_guard(self, restore: bool, role: iam.IRole | None) -> None:
        self.guard.allow("kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants", on=self._arns)
        # This action takes no resource (Service Authorization Reference).
        self.guard.allow("kms:ListAliases", on=["*"])
        self.guard.allow("dynamodb:BatchGetItem", "dynamodb:PutItem", on=[self._state.table_arn])
        if not restore:
            return
        reason = "restore=True: the guard puts the synthesised policy back, and revokes grants"
        Validations.of(self.guard.role).acknowledge(Acknowledgment(id="nitrokit/iam-grant", reason=reason))
        self.guard.function.add_environment("RESTORE", "true")
        if role is None:
            self.guard.allow("kms:PutKeyPolicy", "kms:RevokeGrant", on=self._arns)
        else:
            self.guard.function.add_environment("RESTORE_ROLE_ARN", role.role_arn)
            self.guard.allow("sts:AssumeRole", on=[role.role_arn])

    def _allow_canary(self) -> None:
        self.canary.allow("kms:Decrypt", on=self._arns)
        reason = "on purpose: what must deny it is the key"
        Validations.of(self.canary.role).acknowledge(Acknowledgment(id="nitrokit/iam-grant", reason=reason))
        for key in self._keys:
            key.grants.encrypt(self.canary.role)

    def _allow_audit(self, ledger: AttestationLedger | None) -> None:
        # This action takes no resource (Service Authorization Reference).
        self.audit.allow("cloudtrail:LookupEvents", on=["*"])
        self.audit.allow("dynamodb:GetItem", "dynamodb:PutItem", on=[self._state.table_arn])
        if ledger is not None:
            self.audit.function.add_environment("LEDGER_TABLE", ledger.table.table_name)
            ledger.grant_read(self.audit.role)

    def _trigger(self) -> events.Rule:
        every = {self.guard: Duration.minutes(15), self.canary: Duration.minutes(1), self.audit: Duration.hours(1)}
        for function, rate in every.items():
            target = targets.LambdaFunction(function.function, dead_letter_queue=function.dead_letters)
            events.Rule(self, f"{function.node.id}Schedule", schedule=events.Schedule.rate(rate), targets=[target])
        pattern = events.EventPattern(
            source=["aws.kms"],
            detail_type=["AWS API Call via CloudTrail"],
            detail={"eventSource": ["kms.amazonaws.com"], "eventName": list(CHANGES), "resources": {"ARN": arns_with_aliases(self._keys)}},
        )
        guard = targets.LambdaFunction(self.guard.function, dead_letter_queue=self.guard.dead_letters)
        return events.Rule(self, "Changed", event_pattern=pattern, targets=[guard], description="Something about an EnclaveKey was changed")

    def _key_alarms(self) -> list[cloudwatch.Alarm]:
        found = []
        for key in self._keys:
            name = self._settings.name_of(key)
            found += [
                self._alarm(f"Intact{name}", "KeyPolicyIntact", "guard-key-policy", name, Duration.minutes(30), "Minimum", 1, "is not as synthesised, or nobody looked"),
                self._alarm(f"Denied{name}", "CanaryDenied", "key-canary", name, Duration.minutes(5), "Maximum", 1, "does not prove that it denies Decrypt without attestation"),
                self._alarm(f"Opened{name}", "CanaryOpened", "key-canary", name, Duration.minutes(1), "Maximum", 0, "opened without attestation"),
            ]  # fmt: skip
        return found

    def _alarm(
        self, id: str, metric: str, service: str, key: str, period: Duration, statistic: str, good: int, said: str
    ) -> cloudwatch.Alarm:
        """``good`` 1: below is an alarm, and silence too; 0: above is. ``period``: longer than from one run to the next, which may begin a little late."""
        below = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
        above = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
        missing = cloudwatch.TreatMissingData.BREACHING if good else cloudwatch.TreatMissingData.NOT_BREACHING
        dimensions = {"service": service, "Key": key}
        watched = cloudwatch.Metric(namespace="Nitrokit", metric_name=metric, dimensions_map=dimensions, statistic=statistic, period=period)
        return cloudwatch.Alarm(
            self,
            id,
            metric=watched,
            threshold=good,
            comparison_operator=below if good else above,
            evaluation_periods=1,
            treat_missing_data=missing,
            alarm_description=f"The key {key} {said}",
        )

    def _use_alarm(self) -> cloudwatch.Alarm:
        """Data was opened without attestation, for a debug-mode enclave, or for an image that no lock accepts."""
        kinds = ("unattested", "debug", "unknown-image")
        metrics = {
            f"m{number}": cloudwatch.Metric(
                namespace="Nitrokit", metric_name="KeyUses", dimensions_map={"service": "audit", "Kind": kind}, statistic="Sum", period=Duration.hours(1)
            )
            for number, kind in enumerate(kinds)
        }  # fmt: skip
        summed = cloudwatch.MathExpression(
            expression="+".join(f"FILL({name}, 0)" for name in metrics), using_metrics=metrics, period=Duration.hours(1)
        )
        return cloudwatch.Alarm(
            self,
            "Uses",
            metric=summed,
            threshold=0,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description="Data was opened without attestation, for a debug-mode enclave, or for an image that no lock accepts: invoke the audit and read its answer",
        )
