"""EnclaveHost: a parent instance, without a way in but Systems Manager."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Annotations, Token, Validations
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk.parent import EnclaveSlots

_INTERFACES = {
    "Ssm": ec2.InterfaceVpcEndpointAwsService.SSM,
    "SsmMessages": ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES,
    "Ec2Messages": ec2.InterfaceVpcEndpointAwsService.EC2_MESSAGES,
    "Kms": ec2.InterfaceVpcEndpointAwsService.KMS,
}
_VOLUME_GIB = 20

# What the SSM Agent needs to run documents and associations; not AmazonSSMManagedInstanceCore, which also reads every parameter of the account.
_SSM_AGENT = (
    "ssm:DescribeAssociation", "ssm:DescribeDocument", "ssm:GetDeployablePatchSnapshotForInstance", "ssm:GetDocument", "ssm:GetManifest", "ssm:ListAssociations", "ssm:ListInstanceAssociations",
    "ssm:PutComplianceItems", "ssm:PutConfigurePackageResult", "ssm:PutInventory", "ssm:UpdateAssociationStatus", "ssm:UpdateInstanceAssociationStatus", "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
    "ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint", "ec2messages:GetMessages", "ec2messages:SendReply",
)  # fmt: skip


class EnclaveNetwork(Construct):
    """Isolated subnets with exactly the endpoints that a parent needs: no internet gateway, no NAT. S3 holds the images, the agent and Amazon Linux's packages."""

    def __init__(self, scope: Construct, id: str, *, max_azs: int = 2) -> None:
        super().__init__(scope, id)
        subnets = [ec2.SubnetConfiguration(name="Isolated", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)]
        self.vpc = ec2.Vpc(
            self, "Vpc", max_azs=max_azs, nat_gateways=0, subnet_configuration=subnets, restrict_default_security_group=False
        )
        self.endpoints = ec2.SecurityGroup(
            self, "Endpoints", vpc=self.vpc, description="AWS endpoints, for parent instances", allow_all_outbound=False
        )
        for name, service in _INTERFACES.items():
            self.vpc.add_interface_endpoint(name, service=service, security_groups=[self.endpoints], open=False)
        self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        reason = "no way in or out but AWS endpoints; flow logs are the account's choice: vpc.add_flow_log"
        Validations.of(self.vpc).acknowledge(Acknowledgment(id="AwsSolutions-VPC7", reason=reason))


class EnclaveHost(Construct):
    """One parent instance with EnclaveOptions, IMDSv2 alone (one hop: the enclave is given credentials by the agent), an encrypted volume and no inbound rule.

    - ``network``: default: an EnclaveNetwork of its own.
    - ``instance_type``: default m6i.xlarge: 4 vCPUs, of which the enclave may have two. Graviton gets Amazon Linux for arm64, and needs an arm64 image.
    - ``role_name``: default: named by CloudFormation. Name it where a policy elsewhere must know PCR3.
    - The machine image is the newest Amazon Linux 2023 at each deployment, so a deployment may replace the instance; it holds nothing that the bootstrap does not bring back.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        network: EnclaveNetwork | None = None,
        instance_type: ec2.InstanceType | None = None,
        role_name: str | None = None,
    ) -> None:
        super().__init__(scope, id)
        self.enclaves = EnclaveSlots()
        self.network = network or EnclaveNetwork(self, "Network")
        kind = instance_type or ec2.InstanceType("m6i.xlarge")
        self._warn_of_unsupported(kind)
        self.role = self._make_role(role_name)
        self.instance = ec2.Instance(
            self,
            "Instance",
            vpc=self.network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
            instance_type=kind,
            machine_image=ec2.MachineImage.latest_amazon_linux2023(cpu_type=_cpu_type(kind)),
            role=self.role,
            security_group=self._make_group(),
            enclave_enabled=True,
            http_endpoint=True,
            http_tokens=ec2.HttpTokens.REQUIRED,
            http_put_response_hop_limit=1,
            detailed_monitoring=True,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(_VOLUME_GIB, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3),
                )
            ],
        )
        reason = "the instance is cattle: the bootstrap brings everything on it back, and enclaves keep no state"
        Validations.of(self.instance).acknowledge(Acknowledgment(id="AwsSolutions-EC29", reason=reason))

    def _make_role(self, name: str | None) -> iam.Role:
        role = iam.Role(
            self, "Role", role_name=name, assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), description="Parent instance of enclaves"
        )
        role.add_to_policy(iam.PolicyStatement(sid="SsmAgent", actions=list(_SSM_AGENT), resources=["*"]))
        reason = "the SSM Agent's own calls take no resource, or the instance itself, whose id would make a circle"
        Validations.of(role).acknowledge(Acknowledgment(id="AwsSolutions-IAM5[Resource::*]", reason=reason))
        return role

    def _make_group(self) -> ec2.SecurityGroup:
        group = ec2.SecurityGroup(
            self, "Group", vpc=self.network.vpc, description="Parent instance: nothing comes in", allow_all_outbound=False
        )
        # S3's addresses are public; the subnets have no route to others.
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "AWS endpoints")
        self.network.endpoints.add_ingress_rule(group, ec2.Port.tcp(443), "parent instances")
        return group

    def _warn_of_unsupported(self, kind: ec2.InstanceType) -> None:
        """Types without Nitro Enclaves (Nitro Enclaves User Guide "Requirements")."""
        name = kind.to_string()
        if not Token.is_unresolved(name) and ((name.startswith("t") and not name.startswith("trn")) or ".metal" in name):
            Annotations.of(self).add_error(
                f"instance type {name} does not support Nitro Enclaves: take one of m6i, c6i, r6i, m7g, … with at least 4 vCPUs (2 on Graviton)"
            )

    @property
    def instance_id(self) -> str:
        return self.instance.instance_id

    @property
    def association_targets(self) -> list[ssm.CfnAssociation.TargetProperty]:
        """The instance, for Systems Manager."""
        return [ssm.CfnAssociation.TargetProperty(key="InstanceIds", values=[self.instance_id])]


def _cpu_type(kind: ec2.InstanceType) -> ec2.AmazonLinuxCpuType:
    arm = not Token.is_unresolved(kind.to_string()) and kind.architecture == ec2.InstanceArchitecture.ARM_64
    return ec2.AmazonLinuxCpuType.ARM_64 if arm else ec2.AmazonLinuxCpuType.X86_64
