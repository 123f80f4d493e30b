"""The rule pack as the CDK runs it: it fails the synthesis, is acknowledged, and finds what constructs allow."""

import json
from datetime import UTC, datetime
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3

from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.validation.metadata import StackMetadata
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.measurements import Measurements, digest
from nitrokit.errors import UsageError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ONE = Measurements(digest([b"one"]), digest([b"boot"]), digest([b"app"]))
POLICY = build_key_policy(measurements=[ONE], host_role_arn="arn:aws:iam::123456789012:role/host", account="123456789012")


@pytest.fixture
def app(tmp_path):
    app = cdk.App(
        outdir=str(tmp_path / "out"),
        context={"@aws-cdk/core:validateAgainstDefaultRules": True, "@aws-cdk/aws-ec2:uniqueImdsv2TemplateName": True},
    )
    cdk.Validations.of(app).add_plugins(NitrokitChecks(time=NOW))
    return app


def _report(app):
    report = json.loads((Path(app.outdir) / "validation-report.json").read_text())
    (mine,) = [one for one in report["pluginReports"] if "NitrokitChecks" in json.dumps(one)]
    return mine


def _leaky(stack):
    host = iam.Role(stack, "Host", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    policy = json.loads(json.dumps(POLICY))
    policy["Statement"][0]["Principal"] = {"AWS": host.role_arn}
    policy["Statement"].append({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:PutKeyPolicy", "Resource": "*"})
    for one in policy["Statement"]:
        if one.get("Sid") == "DenyWhatNoAttestationGates":
            one["Action"].remove("kms:PutKeyPolicy")
    return kms.CfnKey(stack, "Key", key_policy=policy, enable_key_rotation=True)


def test_a_broken_rule_fails_the_synthesis_and_says_what_to_do(app):
    _leaky(cdk.Stack(app, "S")).apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    with pytest.raises(RuntimeError) as caught:
        app.synth()
    text = str(caught.value)
    assert "nitrokit/policy-change" in text
    assert "deny kms:PutKeyPolicy to everybody" in text


@pytest.mark.parametrize(
    "override",
    [
        lambda key: key.add_property_override("KeyPolicy", {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}]}),
        lambda key: key.add_property_deletion_override("KeyPolicy"),
    ],
    ids=["everybody may", "KMS's default policy"],
)  # fmt: skip
def test_an_enclave_key_whose_policy_is_overridden_opens_nothing_unseen(app, override):
    """The override reaches the template alone, and leaves no word of attestation there."""
    stack = cdk.Stack(app, "S")
    image = EnclaveImage.from_measurements(stack, "Image", name="app", measurements=ONE, memory_mib=512)
    role = iam.Role(stack, "Host", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    key = EnclaveKey(stack, "Key", images=[image], host_role=role)
    override(key.node.default_child)
    with pytest.raises(RuntimeError, match=r"nitrokit/(unattested|iam-delegation)"):
        app.synth()


@pytest.mark.parametrize("id", ["nitrokit/policy-change", "NitrokitChecks::nitrokit/policy-change"])
def test_a_rule_is_acknowledged_on_the_construct_or_above_it(app, id):
    stack = cdk.Stack(app, "S")
    key = _leaky(stack)
    key.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    cdk.Validations.of(stack).acknowledge(cdk.Acknowledgment(id=id, reason="a test"))
    app.synth()


def test_an_acknowledgement_elsewhere_does_not_count(app):
    stack, other = cdk.Stack(app, "S"), cdk.Stack(app, "Other")
    _leaky(stack).apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    kms.CfnKey(other, "Key", key_policy=POLICY, enable_key_rotation=True).apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    cdk.Validations.of(other).acknowledge(cdk.Acknowledgment(id="nitrokit/policy-change", reason="a test"))
    with pytest.raises(RuntimeError, match="policy-change"):
        app.synth()


def test_our_constructs_break_no_rule_that_they_can_keep(app, image):
    stack = cdk.Stack(app, "S")
    host = EnclaveHost(stack, "Host")
    EnclaveKey(stack, "Key", images=[image("app")], host_role=host.role)
    owner = iam.ArnPrincipal("arn:aws:iam::999999999999:role/owner")
    open_key = EnclaveKey(stack, "Open", sealed=False, administrator_arn=EnclaveKey.deployment_role_arn(stack))
    open_key.grants.decrypt(host.role, image("tool"))
    open_key.grants.encrypt(owner)
    open_key.grants.encrypt(iam.OrganizationPrincipal("o-1234567890"))
    app.synth()
    assert {one["ruleName"] for one in _report(app)["violations"]} == {"nitrokit/missing-alarm"}


def test_a_rollover_past_its_date_fails_and_an_hour_before_does_not(app, image):
    stack = cdk.Stack(app, "S")
    EnclaveKey(stack, "Key", images=[image("new", retiring={"old": NOW})], host_role=EnclaveHost(stack, "Host").role)
    app.synth()
    late = cdk.App(outdir=f"{app.outdir}-late")
    cdk.Validations.of(late).add_plugins(NitrokitChecks(time=datetime(2026, 6, 1, 1, tzinfo=UTC)))
    stack = cdk.Stack(late, "S")
    EnclaveKey(stack, "Key", images=[image("new", retiring={"old": NOW})], host_role=EnclaveHost(stack, "Host").role)
    with pytest.raises(RuntimeError, match="stale-set"):
        late.synth()


def test_uses_that_the_cdk_allows_and_the_key_cannot_serve_are_found(app, image):
    stack = cdk.Stack(app, "S")
    vpc = ec2.Vpc(stack, "Vpc", nat_gateways=0, restrict_default_security_group=False)
    host = EnclaveHost(stack, "Host")
    host.instance.connections.allow_from_any_ipv4(ec2.Port.tcp(443))
    ec2.Instance(
        stack,
        "Public",
        vpc=vpc,
        vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
        instance_type=ec2.InstanceType("m6i.xlarge"),
        machine_image=ec2.MachineImage.latest_amazon_linux2023(),
        enclave_enabled=True,
    )
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host.role)
    s3.Bucket(stack, "Bucket", encryption_key=key)
    kms.KeyGrants.from_key(key).decrypt(host.role)
    with pytest.raises(RuntimeError):
        app.synth()
    found = {one["ruleName"] for one in _report(app)["violations"]}
    assert found == {f"nitrokit/{name}" for name in ("service-encryption", "iam-grant", "public-ingress", "public-address", "imdsv1", "missing-alarm")}  # fmt: skip


def test_nested_stacks_are_read_and_acknowledged_by_themselves(app):
    """The CDK hands a plugin the templates of stacks alone."""
    around = cdk.Stack(app, "Around")
    for stack in (around, cdk.NestedStack(around, "Nested")):
        _leaky(stack).apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    cdk.Validations.of(around.node.find_child("Key")).acknowledge(cdk.Acknowledgment(id="nitrokit/policy-change", reason="a test"))
    with pytest.raises(RuntimeError):
        app.synth()
    (found,) = [one for one in _report(app)["violations"] if one["ruleName"] == "nitrokit/policy-change"]
    assert "Around/Nested/Key" in json.dumps(found["violatingConstructs"])
    assert '"Around/Key' not in json.dumps(found["violatingConstructs"])


@pytest.mark.parametrize("path", ["no", "", "Prod", "Prod/S", "Prod/S/Outer", "Prod/S/Outer/Inner", "Prod/S/Outer/Inner/Key"])
def test_a_rule_is_acknowledged_on_each_scope_of_what_breaks_it(app, path):
    stack = cdk.Stack(cdk.Stage(app, "Prod"), "S")
    inner = cdk.NestedStack(cdk.NestedStack(stack, "Outer"), "Inner")
    key = _leaky(inner)
    key.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    if path == "no":
        with pytest.raises(RuntimeError, match="nitrokit/policy-change"):
            app.synth()
        return
    scope = next(one for one in key.node.scopes if one.node.path == path)
    cdk.Validations.of(scope).acknowledge(cdk.Acknowledgment(id="nitrokit/policy-change", reason="a test"))
    app.synth()


def test_an_assembly_without_metadata_of_its_constructs_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"artifacts": {"S": {"properties": {"templateFile": "S.template.json"}}}}')
    with pytest.raises(UsageError, match="tells nothing of a stack's constructs") as caught:
        StackMetadata("S", tmp_path / "S.template.json")
    assert caught.value.code == "usage/assembly"


def test_an_instance_that_demands_imdsv2_by_its_launch_template_is_well_made(app):
    stack = cdk.Stack(app, "S")
    isolated = ec2.SubnetConfiguration(name="Inner", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
    ec2.Instance(
        stack,
        "Parent",
        vpc=ec2.Vpc(stack, "Vpc", subnet_configuration=[isolated], restrict_default_security_group=False),
        instance_type=ec2.InstanceType("m6i.xlarge"),
        machine_image=ec2.MachineImage.latest_amazon_linux2023(),
        enclave_enabled=True,
        require_imdsv2=True,
    )
    app.synth()
    assert {one["ruleName"] for one in _report(app)["violations"]} == {"nitrokit/missing-alarm"}
