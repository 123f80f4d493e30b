"""The reference stack and a stranger's: what the templates mean, cfn-lint, cdk-nag, drift refused at synthesis."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import assertions

from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage, ImageDriftError
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.core.key_policy import AccessRequest, evaluate

ROOT = Path(__file__).parents[3]


class Everything(cdk.Stack):
    """Every construct, as somebody else would use them."""

    def __init__(self, scope, id, eif, measurements, **options):
        super().__init__(scope, id)
        self.eif = eif
        self.image = EnclaveImage.from_eif(self, "Image", eif, name="small", measurements=measurements)
        self.host = EnclaveHost(self, "Host")
        self.key = EnclaveKey(
            self, "Key", images=[self.image], host_role=self.host.role, data_owners=["arn:aws:iam::999999999999:role/owner"], **options
        )
        self.bootstrap = EnclaveBootstrap(self, "Bootstrap", parent=self.host, image=self.image)
        self.monitor = AttestationMonitor(self, "Monitor", bootstraps=[self.bootstrap])


@pytest.fixture(scope="module")
def stack(tmp_path_factory, measurements):
    from nitrokit.core.eif import write_eif

    eif = tmp_path_factory.mktemp("eif") / "small.eif"
    with eif.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="cmdline", ramdisks=[b"init", b"app"], metadata={})
    app = cdk.App(context={"@aws-cdk/aws-ec2:uniqueImdsv2TemplateName": True}, outdir=str(tmp_path_factory.mktemp("out")))
    return Everything(app, "Everything", eif, measurements)


@pytest.fixture(scope="module")
def template(stack):
    return assertions.Template.from_stack(stack)


def test_the_host_has_enclaves_imdsv2_encryption_and_no_way_in(template):
    template.has_resource_properties("AWS::EC2::Instance", {"EnclaveOptions": {"Enabled": True}})
    template.has_resource_properties("AWS::EC2::Instance", {"MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}})
    instance = next(iter(template.find_resources("AWS::EC2::Instance").values()))["Properties"]
    assert all(one["Ebs"]["Encrypted"] for one in instance["BlockDeviceMappings"])
    assert "KeyName" not in instance
    assert not template.find_resources("AWS::EC2::InternetGateway")
    assert not template.find_resources("AWS::EC2::NatGateway")
    groups = template.find_resources("AWS::EC2::SecurityGroup")
    assert not [one for one in groups.values() if one["Properties"].get("SecurityGroupIngress")]
    for one in template.find_resources("AWS::EC2::SecurityGroupIngress").values():
        assert (one["Properties"]["FromPort"], "SourceSecurityGroupId" in one["Properties"]) == (443, True)


def test_the_keys_policy_opens_for_the_locked_image_alone(template, measurements):
    key = next(iter(template.find_resources("AWS::KMS::Key").values()))
    assert (key["DeletionPolicy"], key["Properties"]["BypassPolicyLockoutSafetyCheck"], key["Properties"]["EnableKeyRotation"]) == (
        "RetainExceptOnCreate",
        True,
        True,
    )
    text = json.dumps(key["Properties"]["KeyPolicy"])
    role = key["Properties"]["KeyPolicy"]["Statement"][0]["Principal"]["AWS"]
    policy = json.loads(
        text.replace(json.dumps(role), '"arn:aws:iam::1:role/host"').replace(
            '{"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":iam::", {"Ref": "AWS::AccountId"}, ":root"]]}', '"arn:aws:iam::1:root"'
        )
    )
    context = {f"kms:RecipientAttestation:PCR{index}": value.hex() for index, value in measurements.pcrs().items()}
    context["kms:RecipientAttestation:ImageSha384"] = measurements.pcr0.hex()
    assert evaluate(policy, AccessRequest("kms:Decrypt", "arn:aws:iam::1:role/host", "1", context=context)).allowed
    assert not evaluate(policy, AccessRequest("kms:Decrypt", "arn:aws:iam::1:role/host", "1")).allowed
    assert "kms:*" not in text


def test_the_host_role_has_no_kms_permission_of_its_own(template):
    """The key policy alone grants: an identity policy could not open anything, and none pretends to."""
    for one in template.find_resources("AWS::IAM::Policy").values():
        assert "kms:" not in json.dumps(one["Properties"]["PolicyDocument"])


def test_the_association_waits_and_carries_the_lock(template, measurements):
    association = next(iter(template.find_resources("AWS::SSM::Association").values()))
    assert association["Properties"]["WaitForSuccessTimeoutSeconds"] == 900
    assert measurements.pcr0.hex() in json.dumps(association["Properties"]["Parameters"])
    assert association["DependsOn"]


def test_an_eif_that_is_not_the_given_one_is_refused(stack, measurements):
    from nitrokit.core.measurements import Measurements

    with pytest.raises(ImageDriftError) as caught:
        EnclaveImage.from_eif(
            cdk.Stack(), "X", stack.eif, name="x", measurements=Measurements(measurements.pcr0, measurements.pcr0, measurements.pcr2)
        )
    assert "PCR1" in str(caught.value)


def test_a_drifted_image_stops_the_synthesis_without_a_traceback(tmp_path, monkeypatch):
    folder = tmp_path / "images" / "hello"
    shutil.copytree(ROOT / "enclave_images/hello", folder)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "bzImage").write_bytes(b"another kernel")
    environment = {
        **os.environ,
        "NITROKIT_BLOBS": str(blobs),
        "CDK_CONTEXT_JSON": json.dumps({"nitrokit:image": str(folder)}),
        "CDK_OUTDIR": str(tmp_path / "out"),
    }
    done = subprocess.run([sys.executable, str(ROOT / "app.py")], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 1
    assert "drift/image" in done.stderr
    assert "the kernel differs" in done.stderr
    assert "Traceback" not in done.stderr
