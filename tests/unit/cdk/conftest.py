"""What several constructs' tests need: small EIFs, images by their measurements alone, and a template's key policy made concrete."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk.assertions import Template

from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.intrinsics import Environment, concrete
from nitrokit.core.measurements import Measurements, digest, pcr8
from nitrokit.core.reference_values import ReferenceValues, RetiringSet

ACCOUNT = "123456789012"
ROOT = Path(__file__).parents[3]


def measured(name: str, *, signed: bool = False) -> Measurements:
    """A set of its own for each name, on one kernel and init."""
    certificate = pcr8(b"certificate") if signed else None
    return Measurements(digest([name.encode()]), digest([b"boot"]), digest([name.encode(), b"app"]), certificate)


@dataclass
class Image:
    """What a key needs of an image."""

    name: str
    retiring: dict[str, datetime] = field(default_factory=dict)
    signed: bool = False

    @property
    def reference_values(self) -> ReferenceValues:
        old = tuple(RetiringSet(measured(name, signed=self.signed), date) for name, date in self.retiring.items())
        return ReferenceValues(measured(self.name, signed=self.signed), old)


@pytest.fixture
def image():
    return Image


@pytest.fixture
def stack(tmp_path):
    return cdk.Stack(cdk.App(outdir=str(tmp_path / "cdk.out")), "S", env=cdk.Environment(account=ACCOUNT, region="eu-west-1"))


@pytest.fixture
def host(stack):
    return iam.Role(stack, "Host", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), role_name="host")


@pytest.fixture
def policy_of():
    """The one key policy of a stack, as it will be deployed."""

    def find(stack):
        (key,) = Template.from_stack(stack).find_resources("AWS::KMS::Key").values()
        return concrete(key["Properties"]["KeyPolicy"], Environment(ACCOUNT, region="eu-west-1"))

    return find


@pytest.fixture
def document_of():
    """The attestation context of a document with these measurements, on a parent with this role."""

    def make(one, *, role_arn=None, **more):
        from nitrokit.core.measurements import pcr3

        pcrs = {**one.pcrs(), **({3: pcr3(role_arn)} if role_arn else {})}
        found = {f"kms:RecipientAttestation:PCR{index}": value.hex() for index, value in pcrs.items()}
        return {**found, "kms:RecipientAttestation:ImageSha384": one.pcr0.hex(), "aws:CurrentTime": datetime.now(UTC).isoformat(), **more}

    return make


@pytest.fixture(scope="session")
def eif_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("eif") / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    return path


@pytest.fixture(scope="session")
def eif_lock(eif_file):
    return read_eif(eif_file.read_bytes()).measurements


@pytest.fixture
def new_stack(tmp_path):
    """Makes stacks with cdk.json's context, each of an app of its own."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]

    def make(**arguments):
        return cdk.Stack(cdk.App(outdir=str(tmp_path / "cdk.out"), context=context), "S", **arguments)

    return make
