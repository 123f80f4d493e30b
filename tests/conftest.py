"""What several rooms' tests need: vectors, a small EIF, an emulated PKI."""

import importlib
import io
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings

VECTORS = Path(__file__).parent / "vectors"
# The same examples on every machine: a failure in CI is a failure here.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def vectors() -> Path:
    return VECTORS


@pytest.fixture(scope="session")
def pki():
    from nitrokit.emulation.nitro.pki import EmulatedPki

    return EmulatedPki(lambda: datetime.now(UTC))


@pytest.fixture(scope="session")
def measurements():
    from nitrokit.core.measurements import Measurements, digest

    return Measurements(digest([b"kernel", b"cmdline", b"init", b"app"]), digest([b"kernel", b"cmdline", b"init"]), digest([b"app"]))


@pytest.fixture(scope="session")
def published():
    """The constructs that docs/constructs.md offers: name → class."""
    table = (VECTORS.parents[1] / "docs" / "constructs.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(nitrokit\.cdk\.\w+)` \|", table, re.MULTILINE)
    return {name: getattr(importlib.import_module(module), name) for name, module in rows}


@pytest.fixture
def small_eif() -> bytes:
    from nitrokit.core.eif import write_eif

    file = io.BytesIO()
    write_eif(
        file,
        kernel=b"kernel",
        cmdline="cmdline",
        ramdisks=[b"init", b"app"],
        metadata={"ImageName": "small", "BuildMetadata": {"BuildTool": "t"}},
    )
    return file.getvalue()


@pytest.fixture
def make_nsm(pki, measurements):
    """An emulated NSM of one enclave; keywords override."""
    from nitrokit.emulation.nitro.nsm import EmulatedNsm

    def make(**changes):
        arguments = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcde",
            "measurements": measurements,
            "role_arn": "arn:aws:iam::123456789012:role/host",
            "debug": False,
            "pki": pki,
            "now": lambda: datetime.now(UTC),
        }
        return EmulatedNsm(**{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def make_ledger_table():
    """Makes the table "ledger", as the construct does, by a DynamoDB client."""
    from nitrokit.core.ledger.layout import ENCLAVE, INDEX, KEY, PLACE

    index = {
        "IndexName": INDEX,
        "KeySchema": [{"AttributeName": ENCLAVE, "KeyType": "HASH"}, {"AttributeName": PLACE, "KeyType": "RANGE"}],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }

    def make(client):
        client.create_table(
            TableName="ledger",
            KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in (KEY, ENCLAVE, PLACE)],
            GlobalSecondaryIndexes=[index],
            BillingMode="PAY_PER_REQUEST",
        )

    return make


@pytest.fixture
def dynamodb(monkeypatch, make_ledger_table):
    """moto's DynamoDB with the table "ledger"."""
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="eu-west-1")
        make_ledger_table(client)
        yield client


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The tests' C programs, linked statically."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    folder = tmp_path_factory.mktemp("programs")
    for name in ("init", "pcrs"):
        command = [
            "gcc",
            "-O2",
            "-static",
            "-Wall",
            "-Werror",
            str(Path(__file__).parent / "programs" / f"{name}.c"),
            "-o",
            str(folder / name),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"gcc cannot link statically here: {done.stderr[-200:]}")
    return folder
