"""Teams lay their constructs over stacks of their own, and bring synthesizers of their own."""

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template

from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EifObject, EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.core.key_policy import PolicyError

from .conftest import ACCOUNT, measured

ENV = cdk.Environment(account=ACCOUNT, region="eu-west-1")
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:role/administrator"


def _image(stack):
    eif = EifObject(s3.Bucket.from_bucket_name(stack, "Images", "images-1"), "key", "ab" * 32)
    return EnclaveImage.from_measurements(stack, "Image", name="hello", measurements=measured("app"), memory_mib=512, eif=eif)


def _waits_for_its_policies(template):
    (association,) = template.find_resources("AWS::SSM::Association").values()
    policies = {name for name, one in template.find_resources("AWS::IAM::Policy").items() if "ssm:PutParameter" in str(one)}
    return policies and policies <= set(association.get("DependsOn", []))


def test_an_enclave_comes_up_on_the_host_of_another_stack(stack):
    theirs = cdk.Stack(stack.node.root, "Hosts", env=ENV)
    host = EnclaveHost(theirs, "Host")
    EnclaveBootstrap(stack, "Run", parent=host, image=_image(stack))
    assert _waits_for_its_policies(Template.from_stack(stack))
    assert "ssm:PutParameter" not in str(Template.from_stack(theirs).to_json())


def test_an_imported_host_is_asked_when_its_role_may_fetch_what_it_needs(stack):
    role = iam.Role.from_role_arn(stack, "Role", f"arn:aws:iam::{ACCOUNT}:role/parents")
    theirs = EnclaveHost.from_instance_attributes(stack, "Theirs", instance_id="i-0123456789abcdef0", role=role)
    EnclaveBootstrap(stack, "Run", parent=theirs, image=_image(stack))
    assert _waits_for_its_policies(Template.from_stack(stack))


def test_a_monitor_of_another_stacks_key_is_told_of_the_circle(stack):
    image, host = _image(stack), EnclaveHost(stack, "Host")
    key = EnclaveKey(stack, "Key", images=[image], host_role=host.role)
    bootstrap = EnclaveBootstrap(stack, "Run", parent=host, image=image)
    with pytest.raises(ValueError, match=r"S/Key is in another stack than Watch/Monitor; expected the same"):
        AttestationMonitor(cdk.Stack(stack.node.root, "Watch", env=ENV), "Monitor", bootstraps=[bootstrap], keys=[key])


def test_an_open_key_in_a_stack_with_a_synthesizer_of_the_apps(stack):
    own = cdk.Stack(stack.node.root, "Own", env=ENV, synthesizer=cdk.DefaultStackSynthesizer(qualifier="acme"))
    role = iam.Role.from_role_arn(own, "Role", f"arn:aws:iam::{ACCOUNT}:role/parents")
    EnclaveKey(own, "Key", images=[_image(own)], host_role=role, sealed=False, administrator_arn=ADMINISTRATOR)
    assert ADMINISTRATOR in str(Template.from_stack(own).to_json())
    with pytest.raises(PolicyError, match="made by the app and does not tell it"):
        EnclaveKey.deployment_role_arn(own)
