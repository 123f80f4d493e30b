"""EnclaveHost: a parent instance, without a way in but Systems Manager."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Acknowledgment, Duration, Size, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk import parent_parts
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.known import need, need_type
from nitrokit.cdk.parent import EnclaveSlots, imported_slots


class EnclaveHost(Construct):
    """One parent instance with EnclaveOptions, IMDSv2 alone (one hop: the enclave is given credentials by the agent), an encrypted volume and no inbound rule.

    - ``images``: what will run on it: up to four images of one architecture. Default: what EnclaveBootstraps put on it, x86_64 alone.
    - ``network``: default: an EnclaveNetwork of its own.
    - ``instance_type``: default the smallest that holds them (``nitrokit.core.sizing.choose``), with none m6i.xlarge. Graviton gets Amazon Linux for arm64.
    - ``machine_image``: default the newest Amazon Linux 2023 at each deployment, so a deployment may replace the instance; it holds nothing that the bootstrap does not bring back.
    - ``role_name``: default: named by CloudFormation. Name it where a policy elsewhere must know PCR3.
    - ``volume_size``: of the root volume; default 20 GiB. ``volume_key``: what encrypts it; default the account's EBS key.

    EC2 moves it to other hardware when its own fails (simplified automatic recovery), and its enclaves start again. Hibernation is impossible together with enclaves, and not offered.
    Raises SizingError for a type that has no enclaves, and for images that do not fit.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        images: Sequence[EnclaveImage] = (),
        network: EnclaveNetwork | None = None,
        instance_type: ec2.InstanceType | None = None,
        machine_image: ec2.IMachineImage | None = None,
        role_name: str | None = None,
        volume_size: Size | None = None,
        volume_key: kms.IKey | None = None,
    ) -> None:
        super().__init__(scope, id)
        self.enclaves = EnclaveSlots()
        wanted = [instance_type] if instance_type else []
        (self.instance_type,) = parent_parts.Sizing(self, self.enclaves, wanted, images).kinds
        need_type(EnclaveNetwork, network=network)
        self.network = network or EnclaveNetwork(self, "Network")
        parent_parts.prepare_network(self.network, images)
        self.role: iam.IRole = parent_parts.make_role(self, role_name)
        self.instance = ec2.Instance(
            self,
            "Instance",
            vpc=self.network.vpc,
            vpc_subnets=self.network.subnets,
            instance_type=self.instance_type,
            machine_image=parent_parts.machine_image(machine_image, self.instance_type),
            role=self.role,
            security_group=parent_parts.make_group(self, self.network),
            enclave_enabled=True,
            http_endpoint=True,
            http_tokens=ec2.HttpTokens.REQUIRED,
            http_put_response_hop_limit=1,
            detailed_monitoring=True,
            block_devices=[parent_parts.root_volume(volume_size, volume_key)],
        )
        self.instance_id = self.instance.instance_id
        cattle = "the instance is cattle: the bootstrap brings everything on it back, and enclaves keep no state"
        encrypted = "its volume is encrypted; the rule fails on instances beside anybody's launch template"
        reasons = {"AwsSolutions-EC29": cattle, "AwsSolutions-EC26": encrypted}
        Validations.of(self.instance).acknowledge(*(Acknowledgment(id=id, reason=reason) for id, reason in reasons.items()))

    @staticmethod
    def from_instance_attributes(scope: Construct, id: str, *, instance_id: str, role: iam.IRole) -> ImportedHost:
        """A parent that another stack owns, or nobody's: launched with EnclaveOptions, and managed by Systems Manager under ``role``."""
        return ImportedHost(scope, id, instance_id=instance_id, role=role)

    @property
    def association_targets(self) -> list[ssm.CfnAssociation.TargetProperty]:
        """The instance, for Systems Manager."""
        return _targets(self.instance_id)

    def metric(self, metric_name: str, *, statistic: str | None = None, period: Duration | None = None) -> cloudwatch.Metric:
        """A metric of the instance in AWS/EC2, e.g. "CPUUtilization"; default the average over five minutes. What enclaves do does not show in it."""
        return cloudwatch.Metric(
            namespace="AWS/EC2",
            metric_name=metric_name,
            dimensions_map={"InstanceId": self.instance_id},
            statistic=statistic,
            period=period,
        )

    def metric_cpu_utilization(self) -> cloudwatch.Metric:
        """Of the parent, in percent, averaged over five minutes."""
        return self.metric("CPUUtilization")

    def metric_status_check_failed(self) -> cloudwatch.Metric:
        """1 for a minute in which a status check of the instance or its hardware failed, else 0."""
        return self.metric("StatusCheckFailed", statistic="Maximum", period=Duration.minutes(1))

    def grant_send_command(self, grantee: iam.IGrantable, document: ssm.CfnDocument) -> iam.Grant:
        """Let somebody run one SSM document on this instance."""
        return parent_parts.grant_send_command(self, grantee, document, self.association_targets[0])


class ImportedHost(Construct):
    """A parent by its id: an ``EnclaveParent``."""

    def __init__(self, scope: Construct, id: str, *, instance_id: str, role: iam.IRole) -> None:
        super().__init__(scope, id)
        need(str, instance_id=instance_id)
        need(iam.IRole, role=role)
        self.instance_id = instance_id
        self.role = role
        self.enclaves = imported_slots(self, lambda one: isinstance(one, ImportedHost) and one.instance_id == instance_id)

    @property
    def association_targets(self) -> list[ssm.CfnAssociation.TargetProperty]:
        """The instance, for Systems Manager."""
        return _targets(self.instance_id)


def _targets(instance_id: str) -> list[ssm.CfnAssociation.TargetProperty]:
    return [ssm.CfnAssociation.TargetProperty(key="InstanceIds", values=[instance_id])]
