"""Hosts and networks: the type that fits, what is refused, what is reachable."""

import json
import re

import aws_cdk as cdk
import jsii
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_ssm as ssm
from aws_cdk.assertions import Annotations, Match, Template

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.parent import EnclaveParent
from nitrokit.core.intrinsics import Environment, concrete
from nitrokit.core.sizing import SizingError

ASSET_KEY = "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012"


@pytest.fixture
def image(eif_lock, eif_file):
    def make(stack, id="Image", *, arch="x86_64", cpu_count=2, memory_mib=256):
        if arch == "x86_64":
            return EnclaveImage.from_eif(
                stack, id, eif_file, name=id.lower(), measurements=eif_lock, cpu_count=cpu_count, memory_mib=memory_mib
            )
        return EnclaveImage.from_measurements(
            stack, id, name=id.lower(), measurements=eif_lock, arch=arch, cpu_count=cpu_count, memory_mib=memory_mib
        )

    return make


def _instance(stack):
    (found,) = Template.from_stack(stack).find_resources("AWS::EC2::Instance").values()
    return found["Properties"]


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ([{}], "c6i.xlarge"),
        ([{}, {}], "c6i.2xlarge"),
        ([{"memory_mib": 20_000}], "r6i.xlarge"),
        ([{"arch": "aarch64", "cpu_count": 1}], "c6g.large"),
    ],
)
def test_the_smallest_type_that_holds_the_images(new_stack, image, images, kind):
    stack = new_stack()
    EnclaveHost(stack, "Host", images=[image(stack, f"I{number}", **one) for number, one in enumerate(images)])
    assert _instance(stack)["InstanceType"] == kind
    assert ("-arm64" in json.dumps(Template.from_stack(stack).to_json()["Parameters"])) == kind.startswith("c6g")


@jsii.implements(cdk.IReusableStackSynthesizer)
class KeyTellingSynthesizer(cdk.DefaultStackSynthesizer):
    """A bootstrap with a key of its own, of which the synthesizer tells."""

    @jsii.member(jsii_name="reusableBind")
    def reusable_bind(self, stack):
        self.bind(stack)
        return self

    @jsii.member(jsii_name="addFileAsset")
    def add_file_asset(self, asset):  # type: ignore[override]
        found = super().add_file_asset(**asset._values)
        return cdk.FileAssetLocation(
            bucket_name=found.bucket_name, http_url=found.http_url, object_key=found.object_key, s3_object_url=found.s3_object_url, kms_key_arn=ASSET_KEY
        )  # fmt: skip


def test_a_host_may_decrypt_its_agent_and_image_by_the_key_that_the_synthesizer_tells(new_stack, image):
    stack = new_stack(synthesizer=KeyTellingSynthesizer())
    EnclaveBootstrap(stack, "Run", parent=EnclaveHost(stack, "Host"), image=image(stack))
    statements = [
        statement
        for policy in Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "kms:" in json.dumps(statement)
    ]
    assert statements == [{"Action": "kms:Decrypt", "Effect": "Allow", "Resource": ASSET_KEY}]


def test_what_is_put_on_a_host_decides_its_type(new_stack, image):
    stack = new_stack()
    host = EnclaveHost(stack, "Host")
    for name in ("One", "Two", "Three"):
        EnclaveBootstrap(stack, f"Run{name}", parent=host, image=image(stack, name))
    assert _instance(stack)["InstanceType"] == "c6i.2xlarge"


def test_a_host_without_enclaves_has_the_default_type(new_stack):
    stack = new_stack()
    EnclaveHost(stack, "Host")
    assert _instance(stack)["InstanceType"] == "m6i.xlarge"


def test_enclaves_that_do_not_fit_together_stop_the_synthesis(new_stack, image):
    stack = new_stack()
    host = EnclaveHost(stack, "Host", instance_type=ec2.InstanceType("m6i.xlarge"))
    for name in ("One", "Two"):
        EnclaveBootstrap(stack, f"Run{name}", parent=host, image=image(stack, name))
    with pytest.raises(RuntimeError, match=r"m6i\.xlarge cannot hold one, two.*take m6i\.2xlarge"):
        stack.node.root.synth()


def test_enclaves_that_fit_nothing_stop_the_synthesis(new_stack, image):
    stack = new_stack()
    host = EnclaveHost(stack, "Host")
    EnclaveBootstrap(stack, "Run", parent=host, image=image(stack, cpu_count=400))
    with pytest.raises(RuntimeError, match="no instance type holds these enclaves"):
        stack.node.root.synth()


@pytest.mark.parametrize(
    ("kind", "needs", "slug"),
    [
        ("t3.xlarge", {}, "unsupported-type"),
        ("m6i.metal", {}, "unsupported-type"),
        ("m6i.large", {}, "unsupported-type"),
        ("m7g.xlarge", {}, "arch"),
        ("m6i.xlarge", {"cpu_count": 4}, "cpus"),
        ("c6i.xlarge", {"memory_mib": 8000}, "pool-memory"),
    ],
)
def test_a_type_that_cannot_hold_the_image_is_refused_at_once(new_stack, image, kind, needs, slug):
    stack = new_stack()
    with pytest.raises(SizingError) as caught:
        EnclaveHost(stack, "Host", images=[image(stack, **needs)], instance_type=ec2.InstanceType(kind))
    assert caught.value.slug == slug


def test_tokens_pass(new_stack, image):
    stack = new_stack()
    kind = cdk.CfnParameter(stack, "Kind", default="m6i.xlarge").value_as_string
    name = cdk.CfnParameter(stack, "Name", default="host").value_as_string
    EnclaveHost(stack, "Host", images=[image(stack)], instance_type=ec2.InstanceType(kind), role_name=name)
    assert _instance(stack)["InstanceType"] == {"Ref": "Kind"}


def test_a_newer_family_is_a_warning(new_stack, image):
    stack = new_stack()
    host = EnclaveHost(stack, "Host", images=[image(stack)], instance_type=ec2.InstanceType("m99i.xlarge"))
    cdk.Validations.of(host).acknowledge(cdk.Acknowledgment(id="CloudFormation-Validate::E3628", reason="CDK's table is older too"))
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("newer than the table.*unknownInstanceType"))


def test_volume_role_and_machine_image_are_the_users_choice(new_stack):
    ami = ec2.MachineImage.generic_linux({"us-east-1": "ami-0123456789abcdef0"})
    stack = new_stack(env=cdk.Environment(region="us-east-1", account="123456789012"))
    key = kms.Key.from_key_arn(stack, "Key", "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012")
    EnclaveHost(stack, "Host", machine_image=ami, role_name="parent", volume_size=cdk.Size.gibibytes(50), volume_key=key)
    instance = _instance(stack)
    ebs = instance["BlockDeviceMappings"][0]["Ebs"]
    assert (ebs["Encrypted"], ebs["KmsKeyId"], ebs["VolumeSize"], instance["ImageId"]) == (True, key.key_arn, 50, "ami-0123456789abcdef0")
    Template.from_stack(stack).has_resource_properties("AWS::IAM::Role", {"RoleName": "parent"})


def test_metrics_are_the_instances_own(new_stack):
    stack = new_stack()
    host = EnclaveHost(stack, "Host")
    for metric in (host.metric_cpu_utilization(), host.metric_status_check_failed()):
        assert (metric.namespace, stack.resolve(metric.dimensions)) == ("AWS/EC2", {"InstanceId": stack.resolve(host.instance_id)})


def test_a_command_is_granted_for_one_document_on_one_instance(new_stack):
    stack = new_stack()
    host = EnclaveHost(stack, "Host")
    document = ssm.CfnDocument(stack, "Document", content={"schemaVersion": "2.2"})
    user = iam.Role(stack, "User", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    host.grant_send_command(user, document)
    statements = [
        statement
        for one in Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
        for statement in one["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "ssm:SendCommand"
    ]
    assert len(statements) == 1
    assert [("HostInstance" in json.dumps(arn), "document/" in json.dumps(arn)) for arn in statements[0]["Resource"]] == [
        (True, False),
        (False, True),
    ]


def test_somebody_elses_instance_runs_enclaves_too(new_stack, image):
    stack = new_stack()
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::123456789012:role/parent")
    host: EnclaveParent = EnclaveHost.from_instance_attributes(stack, "Host", instance_id="i-0123456789abcdef0", role=role)
    EnclaveBootstrap(stack, "Run", parent=host, image=image(stack))
    (association,) = Template.from_stack(stack).find_resources("AWS::SSM::Association").values()
    assert association["Properties"]["Targets"] == [{"Key": "InstanceIds", "Values": ["i-0123456789abcdef0"]}]


def test_endpoints_serve_this_account_and_kms_what_enclaves_ask(new_stack):
    stack = new_stack()
    EnclaveNetwork(stack, "Network", services=["monitoring", "kms-fips"])
    endpoints = {
        json.dumps(one["Properties"]["ServiceName"]).rpartition(".")[2].rstrip('"]}'): one["Properties"]["PolicyDocument"]["Statement"]
        for one in Template.from_stack(stack).find_resources("AWS::EC2::VPCEndpoint").values()
    }
    assert set(endpoints) == {"s3", "ssm", "ssmmessages", "ec2messages", "kms", "kms-fips", "logs", "monitoring"}
    for service, statements in endpoints.items():
        for statement in statements:
            own = statement.get("Condition", {}).get("StringEquals", {}).get("aws:PrincipalAccount") == {"Ref": "AWS::AccountId"}
            public = service == "s3" and statement["Action"] == "s3:GetObject" and "*" not in statement["Resource"]
            signal = statement["Action"] == "s3:PutObject" and "cloudformation-waitcondition-" in str(statement["Resource"])
            assert own or public or signal, statement
    for service in ("ssm", "ssmmessages", "ec2messages", "logs"):
        assert [one["Action"] for one in endpoints[service]] == [f"{service}:*"]
    assert [one["Action"] for one in endpoints["monitoring"]] == ["*"], "CloudWatch's actions are not called as its endpoint"
    # Credentials of this account put nothing into a bucket of another one.
    (own,) = [one for one in endpoints["s3"] if isinstance(one["Action"], list)]
    assert own["Condition"] == {"StringEquals": {f"aws:{one}Account": {"Ref": "AWS::AccountId"} for one in ("Principal", "Resource")}}
    (public,) = [one for one in endpoints["s3"] if one["Action"] == "s3:GetObject"]
    (signal,) = [one for one in endpoints["s3"] if one["Action"] == "s3:PutObject"]
    assert {re.sub(r"^arn:aws:s3:::|/\*$", "", concrete(one, Environment(region="eu-west-1"))) for one in [*public["Resource"], signal["Resource"]]} == {
        "al2023-repos-eu-west-1-de612dc2", "amazonlinux-2-repos-eu-west-1", "amazon-ssm-eu-west-1", "aws-ssm-eu-west-1", "cloudformation-waitcondition-eu-west-1",
    }  # fmt: skip
    (kms_statement,) = endpoints["kms"]
    assert endpoints["kms-fips"] == [kms_statement]
    # What the runtime asks (docs/runtime.md), and a data owner on the parent.
    assert {
        f"kms:{one}" for one in ("Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "GenerateRandom", "Encrypt", "DescribeKey")
    } <= set(kms_statement["Action"])
    assert not {"kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReEncryptFrom", "kms:*"} & set(kms_statement["Action"])


def test_no_road_leads_into_a_network_or_out_of_it_but_the_endpoints(new_stack):
    stack = new_stack()
    network = EnclaveNetwork(stack, "Network")
    host = EnclaveHost(stack, "Host", network=network)
    template = Template.from_stack(stack)
    for kind in ("InternetGateway", "EgressOnlyInternetGateway", "NatGateway", "VPCGatewayAttachment", "Route"):
        template.resource_count_is(f"AWS::EC2::{kind}", 0)
    assert not any(one["Properties"]["MapPublicIpOnLaunch"] for one in template.find_resources("AWS::EC2::Subnet").values())
    (group,) = [name for name in template.find_resources("AWS::EC2::SecurityGroup") if "Endpoints" in name]
    for one in template.find_resources("AWS::EC2::VPCEndpoint").values():
        assert one["Properties"].get("SecurityGroupIds", [{"Fn::GetAtt": [group, "GroupId"]}]) == [{"Fn::GetAtt": [group, "GroupId"]}]
    found = template.to_json()["Resources"][group]["Properties"]
    assert "SecurityGroupIngress" not in found
    assert [(one["CidrIp"], one["IpProtocol"]) for one in found["SecurityGroupEgress"]] == [("255.255.255.255/32", "icmp")], (
        "the CDK's way to say none"
    )
    rules = [one["Properties"] for one in template.find_resources("AWS::EC2::SecurityGroupIngress").values()]
    (rule,) = [one for one in rules if one["GroupId"] == {"Fn::GetAtt": [group, "GroupId"]}]
    assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (443, 443, "tcp")
    assert rule["SourceSecurityGroupId"] == stack.resolve(host.instance.connections.security_groups[0].security_group_id)


def test_one_network_serves_several_hosts(new_stack):
    stack = new_stack()
    network = EnclaveNetwork(stack, "Network", max_azs=1, cidr="10.9.0.0/16")
    for name in ("A", "B"):
        EnclaveHost(stack, name, network=network)
    network.add_endpoint("kms")
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::EC2::VPC", 1)
    template.resource_count_is("AWS::EC2::VPCEndpoint", 6)
    template.has_resource_properties("AWS::EC2::VPC", {"CidrBlock": "10.9.0.0/16"})
    assert network.endpoint("kms").vpc_endpoint_id
    with pytest.raises(ValueError, match="has no endpoint of sqs"):
        network.endpoint("sqs")


def test_somebody_elses_vpc_is_left_as_it_is(new_stack):
    stack = new_stack()
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id="vpc-0123456789abcdef0",
        availability_zones=["us-east-1a"],
        private_subnet_ids=["subnet-0123456789abcdef0"],
        vpc_cidr_block="10.0.0.0/16",
    )
    group = ec2.SecurityGroup.from_security_group_id(stack, "Endpoints", "sg-0123456789abcdef0")
    subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
    network = EnclaveNetwork.from_vpc(stack, "Network", vpc=vpc, subnets=subnets, endpoint_security_group=group)
    network.add_endpoint("sqs")
    EnclaveHost(stack, "Host", network=network)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::EC2::VPCEndpoint", 0)
    template.has_resource_properties("AWS::EC2::SecurityGroupIngress", {"GroupId": "sg-0123456789abcdef0", "FromPort": 443})
    assert _instance(stack)["SubnetId"] == "subnet-0123456789abcdef0"
    bare = EnclaveNetwork.from_vpc(stack, "Bare", vpc=vpc, subnets=subnets)
    EnclaveHost(stack, "Other", network=bare)


def test_tags_reach_everything_that_takes_them(new_stack):
    stack = new_stack()
    EnclaveHost(stack, "Host")
    cdk.Tags.of(stack).add("team", "platform")
    template = Template.from_stack(stack)
    for kind in ("AWS::EC2::Instance", "AWS::IAM::Role", "AWS::EC2::VPC", "AWS::EC2::SecurityGroup", "AWS::EC2::VPCEndpoint"):
        for one in template.find_resources(kind).values():
            assert {"Key": "team", "Value": "platform"} in one["Properties"]["Tags"]
