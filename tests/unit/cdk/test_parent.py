"""What the enclaves of one parent share."""

import json

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.parent import EnclaveSlots
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.manifest import Egress

KMS = Egress("kms.us-east-1.amazonaws.com", 443, 8001)


def _claim(slots, name, *egress, cid=None):
    return slots.claim(name, arch="x86_64", cpu_count=2, memory_mib=64, egress=egress, cid=cid)


def test_cids_are_dealt_out_and_a_port_may_be_shared_for_one_destination():
    slots = EnclaveSlots()
    assert [_claim(slots, "a", KMS).cid, _claim(slots, "b", KMS, cid=17).cid, _claim(slots, "c").cid] == [16, 17, 18]
    assert [slot.name for slot in slots] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ([("a",), ("a",)], "already"),
        ([("a",), ("b",), ("c",), ("d",), ("e",)], "too many"),
        ([("a", KMS), ("b", Egress("other.example.com", 443, 8001))], r"leads to kms\.us-east-1\.amazonaws\.com:443"),
        ([("a", Egress("kms.us-east-1.amazonaws.com", 443, 8000))], "bundled"),
    ],
)
def test_what_cannot_share_a_parent_is_refused(claims, message):
    slots = EnclaveSlots()
    for claim in claims[:-1]:
        _claim(slots, *claim)
    with pytest.raises(ValueError, match=message):
        _claim(slots, *claims[-1])


@pytest.mark.parametrize(("cid", "message"), [(16, "taken"), (3, "reserved"), (2**32 - 1, "reserved")])
def test_a_cid_must_be_free(cid, message):
    slots = EnclaveSlots()
    _claim(slots, "a")
    with pytest.raises(ValueError, match=message):
        _claim(slots, "b", cid=cid)


def test_two_enclaves_run_on_one_host(tmp_path):
    path = tmp_path / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    measurements = read_eif(path.read_bytes()).measurements
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path / "out")), "S")
    host = EnclaveHost(stack, "Host")
    for name in ("first", "second"):
        image = EnclaveImage.from_eif(stack, f"{name}-image", path, name=name, measurements=measurements)
        EnclaveBootstrap(stack, f"{name}-bootstrap", parent=host, image=image)
    configs = [
        json.dumps(one["Properties"]["Parameters"]) for one in Template.from_stack(stack).find_resources("AWS::SSM::Association").values()
    ]
    assert sorted(config.partition('cid\\":')[2][:2] for config in map(lambda text: text.replace("\\\\", "\\"), configs)) == ["16", "17"]


def _conditions(tmp_path, parent, **options):
    path = tmp_path / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    stack = cdk.Stack(cdk.App(), "S")
    image = EnclaveImage.from_eif(stack, "Image", path, name="hello", measurements=read_eif(path.read_bytes()).measurements)
    EnclaveBootstrap(stack, "Bootstrap", parent=parent(stack, "Parent"), image=image, **options)
    template = Template.from_stack(stack)
    (association,) = template.find_resources("AWS::SSM::Association").values()
    return template.find_resources("AWS::CloudFormation::WaitCondition"), association["Properties"]["Parameters"].get("Signal")


def test_a_hosts_deployment_waits_for_its_signal_and_each_configuration_for_its_own(tmp_path):
    ((first, condition),) = _conditions(tmp_path, EnclaveHost)[0].items()
    assert (condition["Properties"]["Count"], condition["Properties"]["Timeout"]) == (1, "900")
    assert [condition["Properties"]["Handle"]] == _conditions(tmp_path, EnclaveHost)[1]
    assert list(_conditions(tmp_path, EnclaveHost)[0]) == [first]
    assert list(_conditions(tmp_path, EnclaveHost, healthy_within=cdk.Duration.seconds(9))[0]) != [first]


def test_nobody_waits_for_a_fleets_signals(tmp_path):
    assert _conditions(tmp_path, EnclaveFleet) == ({}, None)
