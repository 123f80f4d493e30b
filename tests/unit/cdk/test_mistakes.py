"""Mistakes of newcomers: each is told where it is made, by the prop's name, with what was expected."""

import re
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

from nitrokit.cdk.alarm_topic import AlarmTopic
from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.attestation_verifier import AttestationVerifier
from nitrokit.cdk.await_attestation import AwaitAttestation
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_dashboard import EnclaveDashboard
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EifObject, EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.measurement_gate import MeasurementGate
from nitrokit.cdk.monitor_function import FunctionOptions
from nitrokit.core.manifest import Egress
from nitrokit.core.sizing import SizingError
from nitrokit.errors import NitrokitError

from .conftest import measured

OWNER = "arn:aws:iam::123456789012:role/owner"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/12345678-1234-1234-1234-123456789012"


def _wrong(value: object) -> Any:
    """What a type checker would have told."""
    return value


def _image(stack, **changes):
    eif = EifObject(s3.Bucket.from_bucket_name(stack, "Images", "images-1"), "key", "ab" * 32)
    return EnclaveImage.from_measurements(
        stack, "Image", **{"name": "hello", "measurements": measured("app"), "memory_mib": 512, "eif": eif, **changes}
    )


def _key(stack, **changes):
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::123456789012:role/host")
    images = changes.pop("images", None) or [_image(stack)]
    return EnclaveKey(stack, "Key", **{"images": images, "host_role": role, **changes})


def _run(stack, **changes):
    return EnclaveBootstrap(stack, "Run", **{"parent": EnclaveHost(stack, "Host"), "image": _image(stack), **changes})


def _function(stack):
    return lambda_.Function.from_function_name(stack, "Check", "check")


def _balancer_in_foreign_vpc(stack):
    vpc = ec2.Vpc.from_vpc_attributes(stack, "V", vpc_id="vpc-1", availability_zones=["eu-west-1a"], isolated_subnet_ids=["subnet-1"])
    network = EnclaveNetwork.from_vpc(stack, "F-net", vpc=vpc)
    EnclaveFleet(stack, "F", network=network).add_load_balancer(port=443, parent_port=9443)


MISTAKES = {
    "a lock's path for a lock": (lambda stack: _image(stack, measurements="measurements.json"), TypeError, "measurements is 'measurements.json'"),
    "a lock's text for a lock": (lambda stack: _image(stack, measurements={"PCR0": "00"}), TypeError, "expected Measurements or ReferenceValues"),
    "Docker's word for an architecture": (lambda stack: _image(stack, arch="arm64"), NitrokitError, "got: arm64; expected: x86_64 or aarch64"),
    "a name with spaces": (lambda stack: _image(stack, name="My image"), NitrokitError, "got: My image"),
    "no vCPU": (lambda stack: _image(stack, cpu_count=0), NitrokitError, "expected: 1 or more"),
    "memory as text": (lambda stack: _image(stack, memory_mib="512"), TypeError, "memory_mib is '512', of type str; expected int"),
    "an EIF that is not there": (lambda stack: EnclaveImage.from_eif(stack, "I", "/nowhere.eif", name="x", measurements=measured("x")), NitrokitError, "usage/no-eif"),
    "a type as text": (lambda stack: EnclaveHost(stack, "H", instance_type=_wrong("m6i.xlarge")), TypeError, "instance_type is 'm6i.xlarge', of type str; expected InstanceType"),
    "types as text": (lambda stack: EnclaveFleet(stack, "F", instance_types=[_wrong("m6i.xlarge")]), TypeError, "expected InstanceType"),
    "a type without enclaves": (lambda stack: EnclaveHost(stack, "H", instance_type=ec2.InstanceType("t3.large")), SizingError, "sizing/unsupported-type"),
    "one image for a list": (lambda stack: EnclaveHost(stack, "H", images=_wrong(_image(stack))), TypeError, "images is .*; expected list or tuple"),
    "a VPC for a network": (lambda stack: EnclaveHost(stack, "H", network=_wrong(ec2.Vpc(stack, "V"))), TypeError, "of type Vpc; expected EnclaveNetwork"),
    "a VPC for a fleet's network": (lambda stack: EnclaveFleet(stack, "F", network=_wrong(ec2.Vpc(stack, "V"))), TypeError, "expected EnclaveNetwork"),
    "a VPC for a parent": (lambda stack: _run(stack, parent=ec2.Vpc(stack, "V")), TypeError, "parent is of type Vpc; expected EnclaveHost, EnclaveFleet"),
    "a name for an image": (lambda stack: _run(stack, image="hello"), TypeError, "image is 'hello', of type str; expected EnclaveImage"),
    "seconds for a duration": (lambda stack: _run(stack, timeout=900), TypeError, "timeout is 900, of type int; expected Duration"),
    "a cid as text": (lambda stack: _run(stack, cid="20"), TypeError, "cid is '20', of type str; expected int"),
    "half a cid": (lambda stack: _run(stack, cid=20.5), TypeError, "cid is 20.5, of type float; expected int"),
    "no lock": (lambda stack: _image(stack, measurements=None), TypeError, "measurements is None"),
    "half a vCPU": (lambda stack: _image(stack, cpu_count=2.5), TypeError, "cpu_count is 2.5, of type float; expected int"),
    "an EIF's address for an EifObject": (lambda stack: _image(stack, eif="s3://images-1/key"), TypeError, "expected EifObject or DockerImageAsset"),
    "a bucket's name for a bucket": (lambda _: EifObject(_wrong("images-1"), "key", "ab" * 32), TypeError, "bucket is 'images-1', of type str; expected IBucket"),
    "a key that the agent would refuse": (lambda stack: EifObject(s3.Bucket(stack, "B"), "our images/hello.eif", "ab" * 32), ValueError, "key is 'our images/hello.eif'; expected 1 to 900 of"),
    "a version that the agent would refuse": (lambda stack: EifObject(s3.Bucket(stack, "B"), "key", "ab" * 32, "v 1"), ValueError, "version is 'v 1'; expected"),
    "a log group that the agent would refuse": (lambda stack: _run(stack, log_group=logs.LogGroup.from_log_group_name(stack, "L", "team#1")), ValueError, "log_group is called 'team#1'; expected"),
    "a digest with its name": (lambda stack: EifObject(s3.Bucket(stack, "B"), "key", f"sha256:{'ab' * 32}"), ValueError, "expected 64 lower-case hex digits"),
    "a destination as text": (lambda stack: _image(stack, egress=["kms.eu-west-1.amazonaws.com"]), TypeError, "egress is .*; expected Egress"),
    "an AMI's id for a machine image": (lambda stack: EnclaveHost(stack, "H", machine_image=_wrong("ami-0123456789abcdef0")), TypeError, "machine_image is .*; expected IMachineImage"),
    "an AMI's id for a fleet's": (lambda stack: EnclaveFleet(stack, "F", machine_image=_wrong("ami-0123456789abcdef0")), TypeError, "expected IMachineImage"),
    "a key's alias for a volume's key": (lambda stack: EnclaveHost(stack, "H", volume_key=_wrong("alias/ebs")), TypeError, "volume_key is 'alias/ebs', of type str; expected IKey"),
    "a number for a size": (lambda stack: EnclaveHost(stack, "H", volume_size=_wrong(20)), TypeError, "volume_size is 20, of type int; expected Size"),
    "a volume of nothing": (lambda stack: EnclaveHost(stack, "H", volume_size=cdk.Size.gibibytes(0)), ValueError, "volume_size 0 is out of range; expected 1 to 65536"),
    "a volume of one and a half": (lambda stack: EnclaveHost(stack, "H", volume_size=cdk.Size.mebibytes(1536)), TypeError, "volume_size is 1.5"),
    "a role's name that is none": (lambda stack: EnclaveHost(stack, "H", role_name=_wrong(7)), TypeError, "role_name is 7, of type int; expected str"),
    "port 0": (lambda stack: EnclaveFleet(stack, "F").add_load_balancer(port=0, parent_port=9443), ValueError, "port 0 is out of range; expected 1 to 65535"),
    "a port as text": (lambda stack: EnclaveFleet(stack, "F").add_load_balancer(port=443, parent_port=_wrong("9443")), TypeError, "parent_port is '9443'"),
    "a CIDR for a peer": (lambda stack: EnclaveFleet(stack, "F").add_load_balancer(port=443, parent_port=9443, peers=[_wrong("10.0.0.0/8")]), TypeError, "expected IPeer"),
    "an imported VPC that does not tell its addresses": (_balancer_in_foreign_vpc, ValueError, "F-net does not tell its addresses; expected peers="),
    "no zone": (lambda stack: EnclaveNetwork(stack, "N", max_azs=0), ValueError, "max_azs 0 is out of range"),
    "a CIDR with host bits": (lambda stack: EnclaveNetwork(stack, "N", cidr="10.0.0.1/16"), ValueError, "10.0.0.1/16 has host bits set; expected one like"),
    "a CIDR larger than a VPC": (lambda stack: EnclaveNetwork(stack, "N", cidr="10.0.0.0/8"), ValueError, "expected a /16 to a /24"),
    "an endpoint's whole name": (lambda stack: EnclaveNetwork(stack, "N", services=["com.amazonaws.eu-west-1.sns"]), ValueError, "expected its name without the Region"),
    "a VPC's id for a VPC": (lambda stack: EnclaveNetwork.from_vpc(stack, "N", vpc=_wrong("vpc-1")), TypeError, "vpc is 'vpc-1', of type str; expected IVpc"),
    "a list for subnets": (lambda stack: EnclaveNetwork.from_vpc(stack, "N", vpc=ec2.Vpc(stack, "V"), subnets=_wrong(["subnet-1"])), TypeError, "expected SubnetSelection"),
    "a log group's name for a log group": (lambda stack: _run(stack, log_group="/nitrokit"), TypeError, "log_group is '/nitrokit', of type str; expected ILogGroup"),
    "a bucket's name for an output": (lambda stack: _run(stack, output_bucket="output"), TypeError, "output_bucket is 'output', of type str; expected IBucket"),
    "half a second": (lambda stack: _run(stack, timeout=cdk.Duration.millis(90500)), ValueError, "timeout 90.5 s is out of range; expected 15 to 172800 s, in whole seconds"),
    "one bootstrap for a list": (lambda stack: AttestationMonitor(stack, "M", bootstraps=_wrong(_run(stack))), TypeError, "bootstraps is .*; expected list or tuple"),
    "one key for a list": (lambda stack: AttestationMonitor(stack, "M", bootstraps=[_run(stack)], keys=_wrong("key")), TypeError, "keys is 'key'"),
    "an imported key to watch": (lambda stack: AttestationMonitor(stack, "M", bootstraps=[_run(stack)], keys=[_wrong(EnclaveKey.from_key_arn(stack, "K", KEY))]), TypeError, "expected EnclaveKey"),
    "a topic's ARN for a topic": (lambda stack: AttestationMonitor(stack, "M", bootstraps=[_run(stack)], topic=_wrong("arn")), TypeError, "topic is 'arn', of type str; expected ITopic"),
    "a function's name for a function": (lambda stack: AwaitAttestation(stack, "A", check=_wrong("check")), TypeError, "check is 'check', of type str; expected IFunction"),
    "a function that never runs": (lambda stack: AttestationVerifier(stack, "V", concurrency=0), ValueError, "concurrency 0 is out of range; expected 1 to"),
    "a runtime for options": (lambda stack: AttestationVerifier(stack, "V", options=_wrong("python3.13")), TypeError, "expected FunctionOptions"),
    "days for a retention": (lambda stack: AttestationLedger(stack, "L", retention=_wrong(365)), TypeError, "retention is 365, of type int; expected Duration"),
    "one parent for a list": (lambda stack: EnclaveDashboard(stack, "D", parents=_wrong(EnclaveHost(stack, "H"))), TypeError, "parents is .*; expected list or tuple"),
    "no address for alarms": (lambda stack: AlarmTopic(stack, "T", email="ops"), ValueError, "email is 'ops'; expected an address like"),
    "an administrator's name": (lambda stack: _key(stack, sealed=False, administrator_arn="alice"), ValueError, "administrator_arn is 'alice'; expected the ARN of one role"),
    "a word for a switch": (lambda stack: _key(stack, sealed="no"), TypeError, "sealed is 'no', of type str; expected bool"),
    "a description that is too long": (lambda stack: _key(stack, description="x" * 8193), ValueError, "description has 8193 characters; expected at most 8192"),
    "a check every 90 seconds": (lambda stack: AttestationMonitor(stack, "M", bootstraps=[_run(stack)], schedule=cdk.Duration.seconds(90)), ValueError, "expected 60 to 302400 s, in whole minutes"),
    "a context's word for a lock that cannot be undone": (lambda stack: AttestationLedger(stack, "L", compliance=_wrong("false")), TypeError, "compliance is 'false', of type str; expected bool"),
    "a context's word for a switch": (lambda stack: AttestationMonitor(stack, "M", bootstraps=[_run(stack)], restore=_wrong("false")), TypeError, "restore is 'false', of type str; expected bool"),
    "half a function": (lambda stack: AttestationVerifier(stack, "V", concurrency=_wrong(True)), ValueError, "concurrency True is out of range"),
    "a context's number for a capacity": (lambda stack: EnclaveFleet(stack, "F", min_capacity=_wrong("2")), TypeError, "min_capacity is '2', of type str; expected int"),
    "half an instance": (lambda stack: EnclaveFleet(stack, "F", max_capacity=_wrong(4.5)), TypeError, "max_capacity is 4.5, of type float; expected int"),
    "a context's runtime": (lambda stack: AwaitAttestation(stack, "A", check=_function(stack), runtime=_wrong("python3.13")), TypeError, "runtime is 'python3.13', of type str; expected Runtime"),
    "an image's name for a key's image": (lambda stack: _key(stack, images=["hello"]), TypeError, "images is 'hello', of type str; expected MeasuredImage"),
    "a ledger signed every month": (lambda stack: AttestationLedger(stack, "L", schedule=cdk.Duration.days(30)), ValueError, "schedule 2592000 s is out of range; expected 300 to 302400 s"),
    "a role's ARN for an imported host's": (lambda stack: EnclaveHost.from_instance_attributes(stack, "T", instance_id="i-1", role=_wrong(OWNER)), TypeError, "expected IRole"),
    "a role's ARN for an imported fleet's": (lambda stack: EnclaveFleet.from_tag(stack, "T", tag_value="x", role=_wrong(OWNER)), TypeError, "expected IRole"),
    "a key for its ARN": (lambda stack: EnclaveKey.from_key_arn(stack, "K", _wrong(kms.Key(stack, "Own"))), TypeError, "key_arn is .*, of type Key; expected str"),
    "a role's ARN for a role": (lambda stack: _key(stack, host_role=OWNER), TypeError, "expected an IAM role"),
    "a host for its role": (lambda stack: _key(stack, host_role=EnclaveHost(stack, "H")), TypeError, "EnclaveHost is no principal; expected an IAM role, e.g. host.role"),
    "one image for a key's": (lambda stack: _key(stack, images=_image(stack)), TypeError, "expected list or tuple"),
    "one owner for a list": (lambda stack: _key(stack, data_owners=OWNER), TypeError, f"data_owners is '{OWNER}', of type str"),
    "no point in time": (lambda stack: EnclaveDashboard(stack, "D", period=cdk.Duration.seconds(0)), ValueError, "period 0 s is out of range; expected 60 to 86400 s"),
    "a number for a folder": (lambda stack: MeasurementGate(stack, "G", images=_wrong(7)), TypeError, "images is 7, of type int; expected str"),
    "one command for a list": (lambda stack: MeasurementGate(stack, "G", install=_wrong("pip install .")), TypeError, "install is 'pip install .'"),
    "an image's name for a build image": (lambda stack: MeasurementGate(stack, "G", build_image=_wrong("python:3.13")), TypeError, "expected IBuildImage"),
    "a list for an environment": (lambda stack: MeasurementGate(stack, "G", environment=_wrong(["A=b"])), TypeError, "environment is .*; expected Mapping"),
    "an address for a destination": (lambda stack: _image(stack, egress=[Egress("192.0.2.1", 443, 8001)]), NitrokitError, "got: '192.0.2.1'; expected: a whole name in lower case"),
    "no name for a destination": (lambda stack: _image(stack, egress=[Egress(_wrong(None), 443, 8001)]), NitrokitError, "got: None"),
    "port 0 of a destination": (lambda stack: _image(stack, egress=[Egress("a.b", 0, 8001)]), NitrokitError, "port is out of range.*got: 0; expected: 1 to 65535"),
    "a vsock port below 1024": (lambda stack: _image(stack, egress=[Egress("a.b", 443, 443)]), NitrokitError, "vsock_port is out of range.*expected: 1024 to 65535"),
    "a runtime that is too old": (lambda stack: AttestationVerifier(stack, "V", options=FunctionOptions(lambda_.Runtime.PYTHON_3_9)), NitrokitError, "expected: Python 3.11 or newer"),
    "an alias for a key": (lambda stack: EnclaveKey.from_key_arn(stack, "K", "arn:aws:kms:eu-west-1:123456789012:alias/x"), NitrokitError, "name the key itself"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_error_names_the_prop_and_what_was_expected(name, stack):
    build, kind, words = MISTAKES[name]
    with pytest.raises(kind) as caught:
        build(stack)
    assert re.search(words, str(caught.value))


@pytest.mark.parametrize(
    ("props", "words"),
    [
        ({}, "a parent without images and type is for x86_64"),
        ({"instance_type": ec2.InstanceType("m6i.xlarge")}, "images for aarch64, an instance of x86_64"),
        ({"instance_type": ec2.InstanceType("m7g.xlarge")}, None),
    ],
)
def test_an_image_of_another_architecture_is_found_although_the_parent_was_not_told_of_it(stack: cdk.Stack, props, words):
    host = EnclaveHost(stack, "Host", **props)
    EnclaveBootstrap(stack, "Run", parent=host, image=_image(stack, arch="aarch64"))
    found = host.node.validate()
    assert (not found) if words is None else words in found[0]
