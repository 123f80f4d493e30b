"""What the constructs synthesise: meaning, not snapshots."""

import json
import re
import subprocess
import sys
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage, ImageDriftError
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.key_policy import PolicyError
from nitrokit.core.manifest import Egress
from nitrokit.core.measurements import Measurements, digest

ROOT = Path(__file__).parents[3]
OWNER = "arn:aws:iam::123456789012:role/owner"


@pytest.fixture(scope="module")
def eif(tmp_path_factory):
    path = tmp_path_factory.mktemp("eif") / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    return path


@pytest.fixture(scope="module")
def locked(eif):
    return read_eif(eif.read_bytes()).measurements


@pytest.fixture
def stack(tmp_path):
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    return cdk.Stack(cdk.App(outdir=str(tmp_path / "cdk.out"), context=context), "S")


def _image(stack, eif, locked):
    egress = (Egress("kms.us-east-1.amazonaws.com", 443, 8001),)
    return EnclaveImage.from_eif(stack, "Image", eif, measurements=locked, name="hello", egress=egress)


def _whole(stack, eif, locked):
    image = _image(stack, eif, locked)
    host = EnclaveHost(stack, "Host")
    EnclaveKey(stack, "Key", images=[image], host_role=host.role, data_owners=[OWNER])
    bootstrap = EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image)
    return AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap])


@pytest.fixture(scope="module")
def whole(eif, locked, tmp_path_factory):
    """The whole deployment's template, and where it was synthesised."""
    folder = tmp_path_factory.mktemp("whole")
    stack = cdk.Stack(cdk.App(outdir=str(folder), context=json.loads((ROOT / "cdk.json").read_text())["context"]), "S")
    _whole(stack, eif, locked)
    return Template.from_stack(stack), folder


def _resources(template, kind):
    return list(template.find_resources(kind).values())


def _one(template, kind):
    (found,) = _resources(template, kind)
    return found["Properties"]


def _statements(template):
    return [
        statement
        for policy in _resources(template, "AWS::IAM::Policy")
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
    ]


# The host


def test_the_instance_is_a_parent_that_leaks_nothing(whole):
    instance = _one(whole[0], "AWS::EC2::Instance")
    assert instance["EnclaveOptions"] == {"Enabled": True}
    assert instance["MetadataOptions"] == {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert [one["Ebs"]["Encrypted"] for one in instance["BlockDeviceMappings"]] == [True]
    assert "KeyName" not in instance
    assert "HibernationOptions" not in instance


def test_nothing_comes_in_and_nothing_reaches_the_internet(whole):
    template, _ = whole
    for kind in ("AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP"):
        template.resource_count_is(kind, 0)
    (rule,) = _resources(template, "AWS::EC2::SecurityGroupIngress")
    assert "Endpoints" in json.dumps(rule["Properties"]["GroupId"])
    assert (rule["Properties"]["FromPort"], "CidrIp" in rule["Properties"]) == (443, False)
    assert all("SecurityGroupIngress" not in group["Properties"] for group in _resources(template, "AWS::EC2::SecurityGroup"))
    services = json.dumps([one["Properties"]["ServiceName"] for one in _resources(template, "AWS::EC2::VPCEndpoint")])
    for service in ("ssm", "ssmmessages", "ec2messages", "kms", "s3"):
        assert f".{service}" in services


@pytest.mark.parametrize(("kind", "arm"), [("m7g.xlarge", True), ("c6i.2xlarge", False)])
def test_the_machine_image_has_the_instances_architecture(stack, kind, arm):
    EnclaveHost(stack, "Host", instance_type=ec2.InstanceType(kind))
    parameters = json.dumps(Template.from_stack(stack).to_json()["Parameters"])
    assert ("-arm64" in parameters, "-x86_64" in parameters) == (arm, not arm)


# Permissions


def test_no_permission_is_wider_than_its_reason(whole):
    for statement in _statements(whole[0]):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions), actions
        if statement["Resource"] == "*":
            takes_none = {
                "ec2:DescribeInstances",
                "ssm:GetCommandInvocation",
                "xray:PutTraceSegments",
                "xray:PutTelemetryRecords",
            }  # Service Authorization Reference
            assert statement.get("Sid") == "SsmAgent" or set(actions) <= takes_none, statement


def test_the_host_reads_two_objects_and_no_parameters_and_no_keys(whole):
    template, _ = whole
    (role,) = [name for name, one in template.find_resources("AWS::IAM::Role").items() if "Parent" in one["Properties"]["Description"]]
    mine = [one["Properties"] for one in _resources(template, "AWS::IAM::Policy") if {"Ref": role} in one["Properties"]["Roles"]]
    assert "ManagedPolicyArns" not in template.find_resources("AWS::IAM::Role")[role]["Properties"]
    statements = [statement for policy in mine for statement in policy["PolicyDocument"]["Statement"]]
    actions = {action for one in statements for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])}
    assert not any(action.startswith("kms:") or "GetParameter" in action for action in actions)
    resources = [
        resource
        for one in statements
        if one["Action"] == "s3:GetObject"
        for resource in ([one["Resource"]] if isinstance(one["Resource"], dict) else one["Resource"])
    ]
    assert len(resources) == 2
    assert all(re.search(r"/[0-9a-f]{64}\.(eif|pyz)\"", json.dumps(resource)) for resource in resources)


def test_nag_finds_nothing_that_is_not_acknowledged_with_a_reason(stack, eif, locked):
    _whole(stack, eif, locked)
    report = AwsSolutionsChecks(stack.node.root).validate_scope(stack.node.root)
    assert [violation.rule_name for violation in report.violations] == []


def test_nag_would_find_something_else(stack):
    from aws_cdk import aws_s3 as s3

    s3.Bucket(stack, "Open")
    assert AwsSolutionsChecks(stack.node.root).validate_scope(stack.node.root).violations


def test_cfn_lint_has_no_errors(whole):
    # cfn-lint's copy of the KMS actions is older than Decapsulate: a warning (W3037).
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--non-zero-exit-code", "error", str(whole[1] / "S.template.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not re.search(r"^E\d{4}", done.stdout, re.MULTILINE)


# The key


def test_the_key_is_sealed_stays_and_opens_for_the_lock_alone(whole, locked):
    template, _ = whole
    (resource,) = _resources(template, "AWS::KMS::Key")
    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    properties = resource["Properties"]
    assert properties["BypassPolicyLockoutSafetyCheck"] is True
    statements = properties["KeyPolicy"]["Statement"]
    allowed = {
        action
        for one in statements
        if one["Effect"] == "Allow"
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    assert not allowed & {"kms:PutKeyPolicy", "kms:CreateGrant", "kms:*", "kms:ReEncryptFrom", "kms:ReplicateKey"}
    (attested,) = [one for one in statements if one["Effect"] == "Allow" and "kms:Decrypt" in one["Action"]]
    condition = attested["Condition"]["StringEqualsIgnoreCase"]
    assert condition["kms:RecipientAttestation:ImageSha384"] == locked.pcr0.hex()
    assert condition["kms:RecipientAttestation:PCR2"] == locked.pcr2.hex()
    assert "Fn::GetAtt" in json.dumps(attested["Principal"])


def test_an_open_key_needs_its_administrator_and_a_debug_lock_is_refused(stack, eif, locked):
    host = EnclaveHost(stack, "Host")
    image = _image(stack, eif, locked)
    with pytest.raises(PolicyError):
        EnclaveKey(stack, "Open", images=[image], host_role=host.role, sealed=False)
    with pytest.raises(PolicyError):
        EnclaveKey(stack, "None", images=[], host_role=host.role)
    debug = EnclaveImage.from_measurements(
        stack, "Debug", name="debug", measurements=Measurements(bytes(48), bytes(48), bytes(48)), memory_mib=64
    )
    with pytest.raises(PolicyError):
        EnclaveKey(stack, "DebugKey", images=[debug], host_role=host.role)


# The bootstrap


def test_the_association_waits_and_carries_the_agents_hash_and_the_lock(whole, eif, locked):
    template, folder = whole
    association = _one(template, "AWS::SSM::Association")
    assert association["WaitForSuccessTimeoutSeconds"] == 900
    (agent,) = folder.glob("asset.*.pyz")
    import hashlib

    assert association["Parameters"]["AgentSha256"] == [hashlib.sha256(agent.read_bytes()).hexdigest()]
    config = json.dumps(association["Parameters"]["Config"])
    assert all(pcr.hex() in config for pcr in locked.pcrs().values())
    assert hashlib.sha256(eif.read_bytes()).hexdigest() in config
    assert len(config) < 4096


def test_the_agent_understands_the_configuration(whole):
    from nitrokit.host.config import parse

    (parts,) = _one(whole[0], "AWS::SSM::Association")["Parameters"]["Config"]
    text = "".join(part if isinstance(part, str) else part.get("Fn::Sub", "the-log-group") for part in parts["Fn::Join"][1])
    config = parse(text.replace("${AWS::AccountId}", "123456789012").replace("${AWS::Region}", "us-east-1"))
    assert (config.name, config.cid, config.memory_mib) == ("hello", 16, 64)
    assert [(one.vsock_port, one.host, one.port) for one in config.proxies] == [(8001, "kms.us-east-1.amazonaws.com", 443)]


def test_every_step_of_the_documents_ends_at_the_first_failure(whole):
    documents = [one["Properties"] for one in _resources(whole[0], "AWS::SSM::Document")]
    assert [one["DocumentType"] for one in documents].count("Automation") == 1
    for document in documents:
        # Without a name and by new versions, so that an update is never a replacement that collides with itself.
        assert (document["UpdateMethod"], "Name" in document) == ("NewVersion", False)
    for document in (one for one in documents if one["DocumentType"] == "Command"):
        steps = document["Content"]["mainSteps"]
        assert all(step["inputs"]["onFailure"] == "exit" and step["inputs"]["runCommand"][0] == "set -eu" for step in steps)


@pytest.mark.parametrize(
    ("name", "value"), [("cid", 3), ("cid", 2**32 - 1), ("timeout", cdk.Duration.seconds(14)), ("timeout", cdk.Duration.days(3))]
)
def test_values_out_of_range_are_refused_at_once(stack, eif, locked, name, value):
    image, host = _image(stack, eif, locked), EnclaveHost(stack, "Host")
    with pytest.raises(ValueError, match="expected"):
        EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image, **{name: value})


# The image


def test_an_eif_that_is_not_what_the_lock_says_is_not_synthesised(stack, eif, locked):
    other = Measurements(digest([b"x"]), locked.pcr1, digest([b"y"]))
    with pytest.raises(ImageDriftError) as caught:
        EnclaveImage.from_eif(stack, "Image", eif, name="hello", measurements=other)
    assert caught.value.code == "drift/image"
    assert "PCR0" in str(caught.value)
    assert "PCR2" in str(caught.value)
    assert "PCR1" not in str(caught.value)
    assert EnclaveImage.from_eif(stack, "Good", eif, name="hello", measurements=locked).memory_mib == 64
