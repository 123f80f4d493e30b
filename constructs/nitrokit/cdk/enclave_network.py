"""EnclaveNetwork: where parents live, with no way in or out but the AWS endpoints they need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network

from aws_cdk import Acknowledgment, Aws, Validations
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from nitrokit.cdk.known import need, need_each, need_known, need_type, need_within
from nitrokit.core.key_policy.statements import ATTESTED_ACTIONS

_BASIC = ("ssm", "ssmmessages", "ec2messages", "kms", "logs")
"""Systems Manager (older agents speak ec2messages), KMS for the enclaves, CloudWatch Logs for what the agent publishes (Systems Manager User Guide, "VPC endpoints")."""
DOCKER_SERVICES = ("ecr.api", "ecr.dkr")
"""What a parent that builds images from ECR needs besides S3 (Amazon ECR User Guide, "Interface VPC endpoints")."""
_KMS = [*ATTESTED_ACTIONS, "kms:GenerateRandom", "kms:Encrypt", "kms:DescribeKey"]
_ACTIONS = {**{one: [f"{one}:*"] for one in _BASIC}, "kms": _KMS, "kms-fips": _KMS, "ecr.api": ["ecr:*"], "ecr.dkr": ["ecr:*"]}
"""Of any other service all actions: an endpoint leads to one service, whose name says nothing of theirs (CloudWatch is "monitoring", its actions are "cloudwatch:…")."""
_PUBLIC_BUCKETS = ("al2023-repos-{region}-de612dc2", "amazonlinux-2-repos-{region}", "amazon-ssm-{region}", "aws-ssm-{region}")
"""Amazon Linux's packages (AL2023 User Guide, "Managing repositories") and the SSM Agent's updates (Systems Manager User Guide, "SSM Agent communications with AWS managed S3 buckets")."""
_SIGNALS = "cloudformation-waitcondition-{region}"
"""Where a host tells CloudFormation how its enclave came up (CloudFormation User Guide "Setting up VPC endpoints for CloudFormation")."""
_SERVICE = re.compile(r"(?!com\.amazonaws)[a-z0-9-]+(?:\.[a-z0-9-]+)*")
_AZS, _PREFIXES = range(1, 100), range(16, 25)
"""A VPC is no larger than a /16 (Amazon VPC User Guide "VPC CIDR blocks"), a zone's subnet a /24."""
_LAYER_BUCKET = "prod-{region}-starport-layer-bucket"


class EnclaveNetwork(Construct):
    """Isolated subnets with exactly the endpoints that a parent needs: no internet gateway, no NAT, and no credentials of another account through any endpoint.

    - ``max_azs``: over how many zones; default 2.
    - ``cidr``: the VPC's addresses; default 10.0.0.0/16, a /24 for each zone.
    - ``services``: further AWS services for which there is an interface endpoint, e.g. "monitoring"; default none. Constructs add what they need (``add_endpoint``).

    Endpoint policies: the caller must be of this account; KMS takes only what an attested enclave may ask, with Encrypt and DescribeKey;
    S3 reaches this account's buckets and CloudFormation's for signals, and reads those of Amazon Linux and the SSM Agent. Widen one by ``network.endpoint("kms").add_to_policy(…)``.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        max_azs: int = 2,
        cidr: str | None = None,
        services: Sequence[str] = (),
    ) -> None:
        super().__init__(scope, id)
        need_known(max_azs=max_azs, cidr=cidr, services=services)
        need_within(_AZS, max_azs=max_azs)
        need_each(str, services=services)
        _check_cidr(cidr)
        self._interfaces: dict[str, ec2.InterfaceVpcEndpoint] = {}
        self._s3: ec2.GatewayVpcEndpoint | None = None
        vpc = self._make_vpc(max_azs, cidr)
        self.vpc: ec2.IVpc = vpc
        self.subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
        self.endpoints: ec2.ISecurityGroup | None = ec2.SecurityGroup(
            self, "Endpoints", vpc=vpc, description="AWS endpoints, for parent instances", allow_all_outbound=False
        )
        self._s3 = vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        for statement in _s3_statements():
            self._s3.add_to_policy(statement)
        for service in dict.fromkeys([*_BASIC, *services]):
            self.add_endpoint(service)

    def _make_vpc(self, max_azs: int, cidr: str | None) -> ec2.Vpc:
        subnets = [ec2.SubnetConfiguration(name="Isolated", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)]
        vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=max_azs,
            ip_addresses=ec2.IpAddresses.cidr(cidr) if cidr else None,
            nat_gateways=0,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
        )
        reason = "no way in or out but AWS endpoints; flow logs are the account's choice: network.vpc.add_flow_log"
        Validations.of(vpc).acknowledge(Acknowledgment(id="AwsSolutions-VPC7", reason=reason))
        return vpc

    @property
    def addresses(self) -> str:
        """The VPC's, as a CIDR block. Raises ValueError for an imported VPC that does not tell them."""
        try:
            return self.vpc.vpc_cidr_block
        except RuntimeError:
            raise ValueError(
                f"the VPC of {self.node.path} does not tell its addresses; expected peers=[…], or Vpc.from_vpc_attributes(vpc_cidr_block=…)"
            ) from None

    @staticmethod
    def from_vpc(
        scope: Construct,
        id: str,
        *,
        vpc: ec2.IVpc,
        subnets: ec2.SubnetSelection | None = None,
        endpoint_security_group: ec2.ISecurityGroup | None = None,
    ) -> EnclaveNetwork:
        """A VPC of somebody else's: nothing is added to it, so it must lead to Systems Manager, KMS, CloudWatch Logs and S3.

        - ``subnets``: where parents go; default its isolated subnets.
        - ``endpoint_security_group``: that of its interface endpoints, which is then opened for parents on port 443; default: left alone.
        """
        return _ImportedNetwork(scope, id, vpc, subnets, endpoint_security_group)

    def add_endpoint(self, service: str) -> None:
        """The interface endpoint of a service ("ssm", "ecr.api", …), unless it is there. In a VPC of somebody else's: nothing. Raises ValueError for what is no service's name."""
        if service in self._interfaces or self.endpoints is None:
            return
        if not _SERVICE.fullmatch(service):
            raise ValueError(
                f"there is no service {service!r:.80}; expected its name without the Region and what stands before it, e.g. 'ecr.api'"
            )
        name = "".join(part.capitalize() for part in service.replace(".", "-").split("-"))
        added = self.vpc.add_interface_endpoint(
            name, service=ec2.InterfaceVpcEndpointAwsService(service), security_groups=[self.endpoints], open=False
        )
        added.add_to_policy(_of_this_account(_ACTIONS.get(service, ["*"])))
        self._interfaces[service] = added
        if service == "ecr.dkr" and self._s3 is not None:
            self._s3.add_to_policy(_public_read(_LAYER_BUCKET))

    def endpoint(self, service: str) -> ec2.InterfaceVpcEndpoint:
        """The endpoint of a service. Raises ValueError where there is none."""
        if service not in self._interfaces:
            raise ValueError(f"{self.node.path} has no endpoint of {service}; expected one of {', '.join(self._interfaces) or 'none'}")
        return self._interfaces[service]

    def admit(self, group: ec2.ISecurityGroup) -> None:
        """Let a parent's security group reach the endpoints."""
        if self.endpoints is not None:
            # Of another stack: the rule stands there, since that stack depends on this one already.
            self.endpoints.add_ingress_rule(group, ec2.Port.tcp(443), "parent instances", True)


class _ImportedNetwork(EnclaveNetwork):
    def __init__(
        self,
        scope: Construct,
        id: str,
        vpc: ec2.IVpc,
        subnets: ec2.SubnetSelection | None,
        endpoint_security_group: ec2.ISecurityGroup | None,
    ) -> None:
        Construct.__init__(self, scope, id)
        need(ec2.IVpc, vpc=vpc)
        need_type((ec2.SubnetSelection, dict), subnets=subnets)
        need_type(ec2.ISecurityGroup, endpoint_security_group=endpoint_security_group)
        self._interfaces = {}
        self._s3 = None
        self.vpc = vpc
        self.subnets = subnets or ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
        self.endpoints = endpoint_security_group

    def add_endpoint(self, service: str) -> None:
        """Nothing: the VPC's owner decides."""


def _check_cidr(cidr: str | None) -> None:
    if cidr is None:
        return
    need(str, cidr=cidr)
    try:
        found = IPv4Network(cidr)
    except ValueError as error:
        raise ValueError(f"cidr {cidr!r:.80} is no network: {error}; expected one like 10.0.0.0/16") from None
    if found.prefixlen not in _PREFIXES:
        raise ValueError(
            f"cidr {cidr} is out of range; expected a /{_PREFIXES.start} to a /{_PREFIXES.stop - 1}: each zone takes a /24 of it"
        )


def _of_this_account(actions: list[str]) -> iam.PolicyStatement:
    """Credentials of another account, brought along to carry data out, are of no use here."""
    return iam.PolicyStatement(
        principals=[iam.AnyPrincipal()],
        actions=actions,
        resources=["*"],
        conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}},
    )


def _s3_statements() -> list[iam.PolicyStatement]:
    own = iam.PolicyStatement(
        principals=[iam.AnyPrincipal()],
        actions=["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:PutObject"],
        resources=["*"],
        conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID, "aws:ResourceAccount": Aws.ACCOUNT_ID}},
    )
    # A signal is signed by CloudFormation, so the caller is not of this account.
    signals = iam.PolicyStatement(
        principals=[iam.AnyPrincipal()],
        actions=["s3:PutObject"],
        resources=[f"arn:{Aws.PARTITION}:s3:::{_SIGNALS.format(region=Aws.REGION)}/*"],
    )
    return [own, _public_read(*_PUBLIC_BUCKETS), signals]


def _public_read(*buckets: str) -> iam.PolicyStatement:
    """Dnf asks without credentials, so no condition on the caller would match."""
    partition, region = Aws.PARTITION, Aws.REGION
    arns = [f"arn:{partition}:s3:::{bucket.format(region=region)}/*" for bucket in buckets]
    return iam.PolicyStatement(principals=[iam.AnyPrincipal()], actions=["s3:GetObject"], resources=arns)
