"""AttestationLedger: where every check of every enclave is kept, so that nobody can change it unseen."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from nitrokit.cdk.known import need, need_known, need_type, seconds
from nitrokit.cdk.monitor_function import LONGEST_SCHEDULE, FunctionOptions, MonitorFunction
from nitrokit.cdk.wildcards import acknowledge_wildcards
from nitrokit.core.ledger.layout import ENCLAVE, INDEX, KEY, PLACE

_SCHEDULE = range(300, LONGEST_SCHEDULE + 1, 60)
_DELETING = (
    "dynamodb:DeleteItem",
    "dynamodb:UpdateItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:PartiQLDelete",
    "dynamodb:PartiQLUpdate",
    "dynamodb:PartiQLInsert",
)


class AttestationLedger(Construct):
    """A table, a KMS key that signs it, and a bucket with Object Lock that it is exported to. All three stay when the stack goes: they are evidence.

    - ``schedule``: how often the ledger is signed and exported; entries behind the last checkpoint are vouched for by nobody. Default every hour, five minutes to three and a half days.
    - ``retention``: how long each object of the export cannot be deleted. Default a year.
    - ``compliance``: not even the account's root can shorten that (S3 User Guide "Using S3 Object Lock"). Default False: whoever has s3:BypassGovernanceRetention can. Auditors will
      want True; a trial will not, since the bucket then cannot be removed for a year.
    - ``access_logs``: a bucket for the export's server access logs. Default: none.
    - ``options``: of the signing function; default Python 3.13 on x86_64, logs kept for a year.

    ``grant_append(grantee)`` and ``grant_read(grantee)`` give what writers and readers of the table need; who reads the export needs ``bucket.grant_read(grantee)``. Nobody deletes or
    updates items through the table's policy; overwriting cannot be forbidden there, and is what `nitrokit ledger verify` finds. Only the signing function's role may use the key.
    ``alarms``: of its function, and that the ledger was not signed for two periods.
    Raises ValueError for a schedule out of range, and for a retention below a day.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        schedule: Duration | None = None,
        retention: Duration | None = None,
        compliance: bool = False,
        access_logs: s3.IBucket | None = None,
        options: FunctionOptions | None = None,
    ) -> None:
        super().__init__(scope, id)
        every, kept = schedule or Duration.hours(1), retention or Duration.days(365)
        need(bool, compliance=compliance)
        need_type(Duration, retention=retention)
        need_type(s3.IBucket, access_logs=access_logs)
        need_known(retention=kept)
        seconds("schedule", every, _SCHEDULE)
        if kept.to_days(integral=False) < 1:
            raise ValueError(f"retention {kept.to_seconds():.0f} s is too short; expected at least a day")
        self.table = self._make_table()
        self.bucket = self._make_bucket(kept, compliance, access_logs)
        self.key = kms.Key(
            self,
            "Key",
            key_spec=kms.KeySpec.ECC_NIST_P256,
            key_usage=kms.KeyUsage.SIGN_VERIFY,
            removal_policy=RemovalPolicy.RETAIN,
            description="Signs the checkpoints of the attestation ledger",
        )
        self.signer = self._make_signer(options or FunctionOptions())
        self.alarms = [*self.signer.alarms, self._make_schedule(every)]

    def grant_append(self, grantee: iam.IGrantable) -> iam.Grant:
        """What nitrokit.handlers.ledger_store.Ledger needs to append: a transaction is allowed by the actions of its parts (Amazon DynamoDB Developer Guide "Using IAM with transactions")."""
        return self._grant(grantee, "dynamodb:BatchGetItem", "dynamodb:PutItem")

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """What `nitrokit ledger` needs to read the table and to be told the public key."""
        self._grant(grantee, "dynamodb:BatchGetItem")
        index = f"{self.table.table_arn}/index/{INDEX}"
        iam.Grant.add_to_principal(grantee=grantee, actions=["dynamodb:Query"], resource_arns=[index])
        return self.key.grant(grantee, "kms:GetPublicKey")

    def _grant(self, grantee: iam.IGrantable, *actions: str) -> iam.Grant:
        return iam.Grant.add_to_principal(grantee=grantee, actions=list(actions), resource_arns=[self.table.table_arn])

    def _make_table(self) -> dynamodb.Table:
        append_only = iam.PolicyStatement(effect=iam.Effect.DENY, actions=list(_DELETING), principals=[iam.AnyPrincipal()], resources=["*"])
        table = dynamodb.Table(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name=KEY, type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(point_in_time_recovery_enabled=True),
            deletion_protection=True,
            removal_policy=RemovalPolicy.RETAIN,
            resource_policy=iam.PolicyDocument(statements=[append_only]),
        )
        table.add_global_secondary_index(
            index_name=INDEX,
            partition_key=dynamodb.Attribute(name=ENCLAVE, type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name=PLACE, type=dynamodb.AttributeType.STRING),
            projection_type=dynamodb.ProjectionType.KEYS_ONLY,
        )
        return table

    def _make_bucket(self, kept: Duration, compliance: bool, access_logs: s3.IBucket | None) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Export",
            object_lock_default_retention=s3.ObjectLockRetention.compliance(kept)
            if compliance
            else s3.ObjectLockRetention.governance(kept),
            versioned=True,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            removal_policy=RemovalPolicy.RETAIN,
            server_access_logs_bucket=access_logs,
        )
        if access_logs is None:
            reason = "no access_logs bucket was given; every version is kept by Object Lock, whoever reads it"
            Validations.of(bucket).acknowledge(Acknowledgment(id="AwsSolutions-S1", reason=reason))
        return bucket

    def _make_signer(self, options: FunctionOptions) -> MonitorFunction:
        environment = {
            "LEDGER_TABLE": self.table.table_name,
            "LEDGER_ORIGIN": self.table.table_arn,
            "LEDGER_KEY": self.key.key_arn,
            "LEDGER_BUCKET": self.bucket.bucket_name,
        }
        signer = MonitorFunction(
            self,
            "Signer",
            name="sign_ledger",
            description="Signs the attestation ledger and exports what it signed",
            environment=environment,
            options=options,
            timeout=Duration.minutes(15),
            concurrency=1,
        )
        self.grant_append(signer.role)
        signer.allow("kms:GetPublicKey", "kms:Sign", on=[self.key.key_arn])
        # Without s3:ListBucket a file that is not there would look like one that may not be read.
        signer.allow("s3:ListBucket", on=[self.bucket.bucket_arn])
        signer.allow("s3:GetObject", "s3:PutObject", on=[self.bucket.arn_for_objects("*")])
        reason = "the export is the whole bucket, and what is in it cannot be replaced"
        acknowledge_wildcards(signer.role, self.bucket.arn_for_objects("*"), reason=reason)
        others = iam.PolicyStatement(
            sid="OnlyTheLedgersFunctionSigns",
            effect=iam.Effect.DENY,
            actions=["kms:CreateGrant", "kms:Sign"],
            principals=[iam.AnyPrincipal()],
            resources=["*"],
            conditions={"ArnNotEquals": {"aws:PrincipalArn": signer.role.role_arn}},
        )
        self.key.add_to_resource_policy(others)
        return signer

    def _make_schedule(self, every: Duration) -> cloudwatch.Alarm:
        rule = events.Rule(self, "Schedule", schedule=events.Schedule.rate(every), description="Signs and exports the attestation ledger")
        rule.add_target(targets.LambdaFunction(self.signer.function))
        signed = cloudwatch.Metric(
            namespace="Nitrokit", metric_name="LedgerSigned", dimensions_map={"service": "sign-ledger", "Ledger": self.table.table_name}, statistic="Sum", period=every
        )  # fmt: skip
        return cloudwatch.Alarm(
            self,
            "Unsigned",
            metric=signed,
            threshold=1,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            evaluation_periods=2,
            # A ledger that is not signed can be changed unseen.
            treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
            alarm_description=f"The attestation ledger is not signed: read the log of {self.signer.function.function_name}; it may not continue what was signed before",
        )
