"""What a host and a fleet are made of alike: the type that holds their images, role, security group, volume, machine image."""

from __future__ import annotations

from collections.abc import Sequence

import jsii
from aws_cdk import Annotations, IResolveContext, IStringProducer, Lazy, Size, SizeRoundingBehavior, Stack, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_ssm as ssm
from constructs import Construct, IValidation

from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_network import DOCKER_SERVICES, EnclaveNetwork
from nitrokit.cdk.instance_types import catalogue
from nitrokit.cdk.known import need_each, need_type, need_within
from nitrokit.cdk.parent import EnclaveSlots
from nitrokit.cdk.wildcards import acknowledge_wildcards
from nitrokit.core.sizing import Allocation, EnclaveNeeds, InstanceType, SizingError, allocate, choose

UNKNOWN_TYPE = "@nitrokit/cdk:unknownInstanceType"
DEFAULT_TYPE = "m6i.xlarge"
_VOLUME, _VOLUME_GIB = Size.gibibytes(20), range(1, 65_537)
"""gp3 (Amazon EBS User Guide "General Purpose SSD volumes")."""

# What the SSM Agent needs to run documents and associations; not AmazonSSMManagedInstanceCore, which also reads every parameter of the account.
_SSM_AGENT = (
    "ssm:DescribeAssociation", "ssm:DescribeDocument", "ssm:GetDeployablePatchSnapshotForInstance", "ssm:GetDocument", "ssm:GetManifest", "ssm:ListAssociations", "ssm:ListInstanceAssociations",
    "ssm:PutComplianceItems", "ssm:PutConfigurePackageResult", "ssm:PutInventory", "ssm:UpdateAssociationStatus", "ssm:UpdateInstanceAssociationStatus", "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
    "ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint", "ec2messages:GetMessages", "ec2messages:SendReply",
)  # fmt: skip


class Sizing:
    """Which instance types a parent may have: ``wanted``, else the smallest that holds ``images``, else, at the end of the synthesis, the smallest that holds what was put on it (x86_64).

    All enclaves of the parent are checked then, together, against each type. A token is taken as it is, and so is, with a warning, a family newer than the table.
    Raises SizingError for a type without enclaves, and for images that do not fit.
    """

    def __init__(self, scope: Construct, slots: EnclaveSlots, wanted: Sequence[ec2.InstanceType], images: Sequence[EnclaveImage]) -> None:
        need_each(EnclaveImage, images=images)
        need_each(ec2.InstanceType, instance_type=wanted)
        needs = [EnclaveNeeds(one.name, one.arch, one.cpu_count, one.memory_mib) for one in images]
        if not wanted and needs:
            wanted = [ec2.InstanceType(choose(needs, catalogue()).instance_type.name)]
        self.kinds = list(wanted) or [ec2.InstanceType(Lazy.uncached_string(_Smallest(slots)))]
        self._known = [known for kind in self.kinds if (known := _known(scope, kind)) is not None]
        if len({known.arch for known in self._known}) > 1:
            raise SizingError(
                "mixed-types",
                "all instances of a fleet have one architecture",
                got=", ".join(f"{known.name}: {known.arch}" for known in self._known),
                do="leave out the types of one architecture",
            )
        for known in self._known if needs else ():
            allocate(known, needs, catalogue())
        if self._known or not wanted:
            scope.node.add_validation(_Fits(slots, self._known))


def _known(scope: Construct, kind: ec2.InstanceType) -> InstanceType | None:
    """What the table says of it; None for a token and for a family newer than the table."""
    name = kind.to_string()
    if Token.is_unresolved(name):
        return None
    known = catalogue().find(name)
    if known is None:
        message = f"instance type {name} is newer than the table of types ({catalogue().source}): nothing checked that it holds enclaves"
        Annotations.of(scope).add_warning_v2(UNKNOWN_TYPE, message)
    return known


def _needs(slots: EnclaveSlots) -> list[EnclaveNeeds]:
    return [EnclaveNeeds(one.name, one.arch, one.cpu_count, one.memory_mib) for one in slots]


@jsii.implements(IStringProducer)
class _Smallest:
    def __init__(self, slots: EnclaveSlots) -> None:
        self._slots = slots

    def produce(self, context: IResolveContext) -> str:
        try:
            return choose(_needs(self._slots), catalogue()).instance_type.name
        except SizingError:  # nothing is put on it; what does not fit, _Fits tells
            return DEFAULT_TYPE


@jsii.implements(IValidation)
class _Fits:
    """``kinds``: none where the smallest is chosen."""

    def __init__(self, slots: EnclaveSlots, kinds: list[InstanceType]) -> None:
        self._slots, self._kinds = slots, kinds

    def validate(self) -> list[str]:
        if not list(self._slots):
            return []
        try:
            if not self._kinds:
                _check_default(choose(_needs(self._slots), catalogue()))
            for kind in self._kinds:
                allocate(kind, _needs(self._slots), catalogue())
        except SizingError as error:
            return [str(error)]
        return []


def _check_default(chosen: Allocation) -> None:
    """The machine image is chosen before bootstraps come."""
    if chosen.instance_type.arch != "x86_64":
        raise SizingError(
            "arch",
            "a parent without images and type is for x86_64",
            got=", ".join(f"{one.name}: {one.arch}" for one in chosen.enclaves),
            expected="images for x86_64",
            do="give the parent images=[…], or an instance type of that architecture",
        )


def machine_image(given: ec2.IMachineImage | None, kind: ec2.InstanceType) -> ec2.IMachineImage:
    """Default the newest Amazon Linux 2023 at each deployment, of the type's architecture; x86_64 for a token."""
    if given is not None:
        need_type(ec2.IMachineImage, machine_image=given)
        return given
    arm = not Token.is_unresolved(kind.to_string()) and kind.architecture == ec2.InstanceArchitecture.ARM_64
    return ec2.MachineImage.latest_amazon_linux2023(cpu_type=ec2.AmazonLinuxCpuType.ARM_64 if arm else ec2.AmazonLinuxCpuType.X86_64)


def make_role(scope: Construct, name: str | None) -> iam.Role:
    need_type(str, role_name=name)
    role = iam.Role(
        scope, "Role", role_name=name, assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), description="Parent instance of enclaves"
    )
    role.add_to_policy(iam.PolicyStatement(sid="SsmAgent", actions=list(_SSM_AGENT), resources=["*"]))
    reason = "the SSM Agent's own calls take no resource, or the instance itself, whose id would make a circle"
    acknowledge_wildcards(role, "*", reason=reason)
    return role


def make_group(scope: Construct, network: EnclaveNetwork) -> ec2.SecurityGroup:
    group = ec2.SecurityGroup(scope, "Group", vpc=network.vpc, description="Parent instance: nothing comes in", allow_all_outbound=False)
    # S3's addresses are public; the subnets have no route to others.
    group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "AWS endpoints")
    network.admit(group)
    return group


def prepare_network(network: EnclaveNetwork, images: Sequence[EnclaveImage]) -> None:
    """The endpoints that these images need beyond the basic ones."""
    if any(isinstance(image.source, ecr_assets.DockerImageAsset) for image in images):
        for service in DOCKER_SERVICES:
            network.add_endpoint(service)


def root_volume(size: Size | None, key: kms.IKey | None) -> ec2.BlockDevice:
    need_type(Size, volume_size=size)
    need_type(kms.IKey, volume_key=key)
    gibibytes = (size or _VOLUME).to_gibibytes(rounding=SizeRoundingBehavior.NONE)
    need_within(_VOLUME_GIB, volume_size=gibibytes)
    volume = ec2.BlockDeviceVolume.ebs(gibibytes, encrypted=True, kms_key=key, volume_type=ec2.EbsDeviceVolumeType.GP3)
    return ec2.BlockDevice(device_name="/dev/xvda", volume=volume)


def grant_send_command(
    scope: Construct, grantee: iam.IGrantable, document: ssm.CfnDocument, target: ssm.CfnAssociation.TargetProperty
) -> iam.Grant:
    """Run one document on the instances of ``target``, and on no other: by id, or by the tag that they have."""
    stack = Stack.of(scope)
    documents = stack.format_arn(service="ssm", resource="document", resource_name=document.ref)
    tag = str(target.key).partition("tag:")[2]
    names = ["*"] if tag else list(target.values)
    instances = [stack.format_arn(service="ec2", resource="instance", resource_name=name) for name in names]
    granted = iam.Grant.add_to_principal(grantee=grantee, actions=["ssm:SendCommand"], resource_arns=[documents])
    conditions = {"StringEquals": {f"ssm:resourceTag/{tag}": list(target.values)}} if tag else None
    return granted.combine(
        iam.Grant.add_to_principal(grantee=grantee, actions=["ssm:SendCommand"], resource_arns=instances, conditions=conditions)
    )
