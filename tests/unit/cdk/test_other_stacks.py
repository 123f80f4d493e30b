"""Teams lay their constructs over stacks of their own, and bring synthesizers of their own."""

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk.assertions import Template

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.await_attestation import AwaitAttestation
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EifObject, EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.instance_types import catalogue
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


def test_one_stack_deployed_under_two_names_reaches_no_fleet_and_retires_no_enclave_of_the_other(tmp_path):
    def told(name):
        stack = cdk.Stack(cdk.App(outdir=str(tmp_path / name)), "S", stack_name=name, env=ENV)
        image, fleet = _image(stack), EnclaveFleet(stack, "Fleet")
        role = iam.Role.from_role_arn(stack, "Role", f"arn:aws:iam::{ACCOUNT}:role/parents")
        theirs = EnclaveHost.from_instance_attributes(stack, "Theirs", instance_id="i-0123456789abcdef0", role=role)
        for parent in (fleet, theirs):
            EnclaveBootstrap(stack, f"On{parent.node.id}", parent=parent, image=image)
        associations = Template.from_stack(stack).find_resources("AWS::SSM::Association").values()
        groups = {json.loads(_joined(one["Properties"]["Parameters"]["Config"][0]))["group"] for one in associations}
        return {fleet.tag_value, *groups}

    assert len(told("blue")) == 2
    assert not told("blue") & told("green")


def _joined(value):
    return "".join(part if isinstance(part, str) else "x" for part in value["Fn::Join"][1])


def _elsewhere(stack, **env):
    return cdk.Stack(stack.node.root, "Elsewhere", env=cdk.Environment(**{"account": ACCOUNT, "region": "eu-west-1", **env}))


@pytest.mark.parametrize("env", [{"region": "us-east-1"}, {"account": "999999999999"}], ids=["Region", "account"])
def test_what_reaches_its_instances_by_a_name_alone_stands_in_their_account_and_region(stack, env):
    fleet, image = EnclaveFleet(stack, "Fleet", role_name="parents"), _image(stack)
    there = _elsewhere(stack, **env)
    message = r"Elsewhere/\w+ is in .*, and {} in 123456789012/eu-west-1; expected one account and Region"
    with pytest.raises(ValueError, match=message.format("S/Fleet")):
        EnclaveBootstrap(there, "Run", parent=fleet, image=image)
    bootstrap = EnclaveBootstrap(stack, "Run", parent=fleet, image=image)
    with pytest.raises(ValueError, match=message.format("S/Run")):
        AttestationMonitor(there, "Monitor", bootstraps=[bootstrap])


def test_a_parent_whose_role_is_of_another_account_is_refused(stack):
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::999999999999:role/parents")
    theirs = EnclaveHost.from_instance_attributes(stack, "Theirs", instance_id="i-0123456789abcdef0", role=role)
    with pytest.raises(ValueError, match=r"role of S/Theirs is of account 999999999999, and S/Run of 123456789012; expected one account"):
        EnclaveBootstrap(stack, "Run", parent=theirs, image=_image(stack))


def test_where_only_the_deployment_knows_the_account_a_bootstrap_is_taken_as_it_is(stack):
    agnostic = cdk.Stack(stack.node.root, "Agnostic")
    role = iam.Role.from_role_arn(agnostic, "Role", f"arn:aws:iam::{ACCOUNT}:role/parents")
    fleet = EnclaveFleet.from_tag(agnostic, "Fleet", tag_value="fleet", role=role)
    bootstrap = EnclaveBootstrap(agnostic, "Run", parent=fleet, image=_image(agnostic))
    assert bootstrap.parent is fleet


def test_the_guard_knows_the_policy_of_a_key_whose_role_is_another_stacks(stack):
    theirs = cdk.Stack(stack.node.root, "Hosts", env=ENV)
    host, image = EnclaveHost(theirs, "Host"), _image(stack)
    key = EnclaveKey(stack, "Key", images=[image], host_role=host.role)
    AttestationMonitor(stack, "Monitor", bootstraps=[EnclaveBootstrap(stack, "Run", parent=host, image=image)], keys=[key])
    template = Template.from_stack(stack).to_json()
    (deployed,) = (one for one in template["Resources"].values() if one["Type"] == "AWS::KMS::Key")
    principal = deployed["Properties"]["KeyPolicy"]["Statement"][0]["Principal"]["AWS"]
    assert "Fn::ImportValue" in principal
    parameters = [one["Properties"] for one in template["Resources"].values() if one["Type"] == "AWS::SSM::Parameter"]
    (first,) = (one for one in parameters if "/keys/" in str(one["Name"]) and str(one["Name"]).endswith("/0"))
    assert principal in first["Value"]["Fn::Join"][1]


@pytest.mark.parametrize("prop", ["ledger", "topic", "alarm_topic"])
def test_what_a_monitor_writes_to_by_name_is_in_its_region(stack, prop):
    there = _elsewhere(stack, region="us-east-1")
    topic = f"arn:aws:sns:us-east-1:{ACCOUNT}:x"
    made: Any = AttestationLedger(there, "There") if prop == "ledger" else sns.Topic.from_topic_arn(stack, "There", topic)
    host, image = EnclaveHost(stack, "Host"), _image(stack)
    bootstrap = EnclaveBootstrap(stack, "Run", parent=host, image=image)
    with pytest.raises(ValueError, match=r"There (is|in|of) .*us-east-1.*; expected one"):
        AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap], **{prop: made})


def test_a_pipeline_waits_for_a_monitor_of_its_region(stack):
    check = lambda_.Function.from_function_arn(stack, "Check", f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:check")
    with pytest.raises(ValueError, match=r"S/Check is of us-east-1, and S/Await of eu-west-1; expected one Region"):
        AwaitAttestation(stack, "Await", check=check)


@pytest.mark.parametrize(
    ("environments", "is_one"), [([ENV, ENV], True), ([ENV, cdk.Environment(account=ACCOUNT, region="us-east-1")], False), ([None, None], False)]
)  # fmt: skip
def test_fleets_of_one_tag_are_one_where_they_are_known_to_be_in_one_place(environments, is_one):
    app = cdk.App()
    fleets = []
    for number, env in enumerate(environments):
        stack = cdk.Stack(app, f"S{number}", env=env)
        role = iam.Role.from_role_arn(stack, "Role", f"arn:aws:iam::{ACCOUNT}:role/parents")
        fleets.append(EnclaveFleet.from_tag(stack, "Fleet", tag_value="blue", role=role))
    assert (fleets[0].enclaves is fleets[1].enclaves) == is_one


@pytest.mark.parametrize(
    ("imported", "attribute"), [(EnclaveHost.from_instance_attributes, "instance_id"), (EnclaveFleet.from_tag, "tag_value")]
)
def test_a_parent_that_is_imported_twice_is_one_parent(stack, imported, attribute):
    role = iam.Role.from_role_arn(stack, "Role", f"arn:aws:iam::{ACCOUNT}:role/parents")
    one, same, other = (
        imported(stack, f"Host{number}", **{attribute: id}, role=role)
        for number, id in enumerate(["i-0123456789abcdef0", "i-0123456789abcdef0", "i-0123456789abcdef1"])
    )
    image = _image(stack)
    first = EnclaveBootstrap(stack, "First", parent=one, image=image)
    with pytest.raises(ValueError, match="an enclave hello is on this parent already"):
        EnclaveBootstrap(stack, "Again", parent=same, image=image)
    second = EnclaveImage.from_measurements(
        stack, "Second", name="second", measurements=measured("second"), memory_mib=512, eif=image.source
    )
    assert EnclaveBootstrap(stack, "Other", parent=same, image=second).slot.cid != first.slot.cid
    assert EnclaveBootstrap(stack, "Elsewhere", parent=other, image=image).slot.cid == first.slot.cid


def test_what_is_looked_at_early_is_told_as_it_is_in_the_end(stack):
    """As an aspect does that resolves what it looks at."""
    host, image = EnclaveHost(stack, "Host"), _image(stack)
    key = EnclaveKey(stack, "Key", images=[image], host_role=host.role)
    bootstrap = EnclaveBootstrap(stack, "Run", parent=host, image=image)
    AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap], keys=[key])
    for early in stack.node.find_all():
        if cdk.CfnResource.is_cfn_resource(early):
            stack.resolve(getattr(early, "key_policy", None) or getattr(early, "parameters", None) or getattr(early, "instance_type", None))
    large = EnclaveImage.from_measurements(
        stack, "Large", name="large", measurements=measured("large"), memory_mib=20_000, cpu_count=4, eif=image.source
    )
    EnclaveBootstrap(stack, "RunLarge", parent=host, image=large)
    key.grants.encrypt(iam.AccountPrincipal("999999999999"))
    key.add_alias("late")
    template = Template.from_stack(stack)
    (instance,) = template.find_resources("AWS::EC2::Instance").values()
    chosen = catalogue().find(instance["Properties"]["InstanceType"])
    assert chosen is not None and chosen.memory_mib > 20_000
    (deployed,) = template.find_resources("AWS::KMS::Key").values()
    assert "999999999999" in str(deployed["Properties"]["KeyPolicy"])
    associations = template.find_resources("AWS::SSM::Association").values()
    assert all("large" in str(one["Properties"]["Parameters"]["Config"]) for one in associations)
    told = str(template.find_resources("AWS::SSM::Parameter"))
    assert "999999999999" in told and "alias/late" in told
