"""The bill of materials: valid by CycloneDX's own schema, complete, and the same for the same image."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from nitrokit.image.lock import read_package_lock
from nitrokit.image.sbom import write_sbom

HELLO = Path(__file__).parents[3] / "enclave_images" / "hello"


def test_it_is_valid_and_names_everything_with_its_hash(built):
    path = write_sbom(HELLO, built)
    text = path.read_text()
    assert path.name == "hello.cdx.json"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    components = {component["name"]: component for component in bom["components"]}
    for package in read_package_lock(HELLO / "packages.lock.json").packages:
        found = components[package.name]
        assert (found["version"], found["hashes"][0]["content"]) == (package.version, package.sha256)
        assert found["purl"].startswith("pkg:deb/debian/") and "arch=amd64" in found["purl"]
    assert {"botocore", "cbor2", "cryptography", "nitrokit", "kernel"} <= set(components)
    properties = {one["name"]: one["value"] for one in bom["metadata"]["component"]["properties"]}
    assert properties == {f"nitrokit:PCR{index}": value.hex() for index, value in built.measurements.pcrs().items()}


@pytest.mark.parametrize(
    ("eif", "expected"), [("x.eif", "x.cdx.json"), ("x", "x.cdx.json"), ("x.1", "x.1.cdx.json"), ("x.2", "x.2.cdx.json")]
)
def test_images_side_by_side_have_a_bill_each(built, tmp_path, eif, expected):
    assert write_sbom(HELLO, replace(built, eif=tmp_path / eif)).name == expected


def test_the_same_image_gives_the_same_bytes(built):
    assert write_sbom(HELLO, built).read_bytes() == write_sbom(HELLO, built).read_bytes()
