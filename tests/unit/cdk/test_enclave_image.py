"""The ways to an image: what it carries, and what its host is told and allowed."""

import json

import pytest
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EifObject, EnclaveImage, ImageDriftError
from nitrokit.core.boot import BootError
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.intrinsics import resolve
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.core.sizing import SizingError
from nitrokit.host.config import parse

SHA256 = "ab" * 32


def _role(stack):
    return iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))


def _allowed(stack):
    (policy,) = Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
    return policy["Properties"]["PolicyDocument"]["Statement"]


def test_an_eif_is_an_asset_that_its_host_may_read(new_stack, eif_file, eif_lock):
    stack = new_stack()
    image = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=eif_lock)
    image.grant_read(_role(stack))
    (statement,) = _allowed(stack)
    assert statement["Action"] == "s3:GetObject"
    assert json.dumps(statement["Resource"]).endswith('.eif"]]}')
    assert (image.arch, image.cpu_count, image.memory_mib) == ("x86_64", 2, 64)
    assert image.reference_values == ReferenceValues(eif_lock)
    config = {**stack.resolve(image.host_config()), "image_uri": "s3://bucket/key.eif"}
    measurements = {f"PCR{index}": value.hex() for index, value in eif_lock.pcrs().items()}
    assert parse(
        json.dumps({**config, "name": "a", "measurements": measurements, "cpu_count": 2, "memory_mib": 64, "cid": 16, "proxies": []})
    )


@pytest.mark.parametrize(("options", "port"), [({}, 5001), ({"controlled": False}, None)])
def test_of_an_image_with_another_init_its_host_asks_nothing(new_stack, eif_file, eif_lock, options, port):
    stack = new_stack()
    where = EifObject(s3.Bucket.from_bucket_name(stack, "Images", "images"), "x.eif", SHA256)
    here = EnclaveImage.from_eif(stack, "Here", eif_file, name="here", measurements=eif_lock, **options)
    there = EnclaveImage.from_measurements(stack, "There", name="there", measurements=eif_lock, memory_mib=64, eif=where, **options)
    host = EnclaveHost(stack, "Host")
    for image in (here, there):
        run = EnclaveBootstrap(stack, f"Run{image.name}", parent=host, image=image)
        (text,) = stack.resolve(run.association.parameters)["Config"]
        config = parse(resolve(text, lambda name: "group" if "Logs" in name else "bucket"))
        assert (config.name, config.control_port) == (image.name, port)


def test_an_eif_that_switches_the_emulation_on_is_refused(new_stack, tmp_path):
    path = tmp_path / "x.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="quiet nitrokit.emulated=1", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    with pytest.raises(BootError):
        EnclaveImage.from_eif(new_stack(), "Image", path, name="x", measurements=read_eif(path.read_bytes()).measurements)


def test_an_object_elsewhere_is_read_by_version_and_decrypted(new_stack, eif_lock):
    stack = new_stack()
    key = kms.Key.from_key_arn(stack, "Key", "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012")
    bucket = s3.Bucket.from_bucket_attributes(stack, "Images", bucket_name="images", encryption_key=key)
    where = EifObject(bucket, "hello.eif", SHA256, version="v1")
    image = EnclaveImage.from_measurements(stack, "Image", name="hello", measurements=eif_lock, memory_mib=301, arch="aarch64", eif=where)
    image.grant_read(_role(stack))
    assert image.host_config() == {"image_uri": "s3://images/hello.eif", "image_version": "v1", "image_sha256": SHA256}
    assert {action for one in _allowed(stack) for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])} == {
        "s3:GetObject",
        "s3:GetObjectVersion",
        "kms:Decrypt",
    }
    assert (image.memory_mib, image.arch) == (302, "aarch64")


def test_measurements_alone_run_nowhere(new_stack, eif_lock):
    image = EnclaveImage.from_measurements(new_stack(), "Image", name="hello", measurements=eif_lock, memory_mib=64)
    with pytest.raises(ImageDriftError) as caught:
        image.host_config()
    assert caught.value.code == "drift/no-source"


def test_a_docker_image_is_pulled_and_its_hosts_network_reaches_ecr(new_stack, eif_lock, tmp_path):
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/Dockerfile").write_text("FROM scratch\n")
    stack = new_stack()
    asset = ecr_assets.DockerImageAsset(stack, "Docker", directory=str(tmp_path / "docker"))
    image = EnclaveImage.from_docker_image(stack, "Image", asset, name="hello", measurements=eif_lock, memory_mib=1024)
    host = EnclaveHost(stack, "Host", images=[image])
    image.grant_read(host.role)
    assert set(image.host_config()) == {"docker_uri"}
    template = Template.from_stack(stack)
    actions = json.dumps([one["Properties"]["PolicyDocument"] for one in template.find_resources("AWS::IAM::Policy").values()])
    assert "ecr:BatchGetImage" in actions
    services = json.dumps([one["Properties"]["ServiceName"] for one in template.find_resources("AWS::EC2::VPCEndpoint").values()])
    assert ".ecr.api" in services
    assert ".ecr.dkr" in services
    policies = json.dumps([one["Properties"]["PolicyDocument"] for one in template.find_resources("AWS::EC2::VPCEndpoint").values()])
    assert "starport-layer-bucket" in policies


def test_too_little_memory_is_refused(new_stack, eif_file, eif_lock):
    with pytest.raises(SizingError):
        EnclaveImage.from_eif(new_stack(), "Image", eif_file, name="small", measurements=eif_lock, memory_mib=63)
