"""Mistakes of newcomers: each is told where it is made, by the prop's name, with what was expected."""

import re
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EifObject, EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.core.sizing import SizingError
from nitrokit.errors import NitrokitError

from .conftest import measured

OWNER = "arn:aws:iam::123456789012:role/owner"


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
    "a role's ARN for a role": (lambda stack: _key(stack, host_role=OWNER), TypeError, "expected an IAM role"),
    "a host for its role": (lambda stack: _key(stack, host_role=EnclaveHost(stack, "H")), TypeError, "EnclaveHost is no principal; expected an IAM role, e.g. host.role"),
    "one image for a key's": (lambda stack: _key(stack, images=_image(stack)), TypeError, "expected list or tuple"),
    "one owner for a list": (lambda stack: _key(stack, data_owners=OWNER), TypeError, f"data_owners is '{OWNER}', of type str"),
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
