"""The Lambda that signs and exports, against moto's DynamoDB, KMS and a bucket with Object Lock."""

import json
import os
from datetime import UTC, datetime

import boto3
import pytest
from botocore.exceptions import ClientError

from nitrokit.core.ledger import PASS, LedgerEntry, LedgerError, TiledLedger, verify_checkpoint, walk
from nitrokit.handlers.ledger_export import BucketStore
from nitrokit.handlers.ledger_signing import kms_public_key
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.sign_ledger import handler, sign_and_export

ORIGIN = "arn:aws:dynamodb:eu-west-1:123456789012:table/ledger"


@pytest.fixture
def world(dynamodb, monkeypatch):
    """(ledger, bucket, key's ARN), and the environment that names them."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    s3, kms = boto3.client("s3"), boto3.client("kms")
    s3.create_bucket(Bucket="export", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 365}}
    s3.put_object_lock_configuration(Bucket="export", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule})
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
    for name, value in (("TABLE", "ledger"), ("ORIGIN", ORIGIN), ("KEY", key), ("BUCKET", "export")):
        monkeypatch.setenv(f"LEDGER_{name}", value)
    ledger = Ledger("ledger", dynamodb)
    _append(ledger, 0, 5)
    return ledger, s3, key


def _append(ledger, start, end):
    ledger.append_all([LedgerEntry(f"id{number}", datetime.now(UTC), "hello", "i-1", "test", PASS) for number in range(start, end)])


def test_each_run_signs_and_exports(world, capsys):
    ledger, s3, key = world
    assert handler({}, None)["entries"] == 5
    _append(ledger, 5, 9)
    answer = handler({}, None)
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "LedgerEntries" in line]
    assert (answer["entries"], metrics[-1]["LedgerEntries"], metrics[-1]["LedgerSigned"]) == (9, [9.0], [1.0])
    store = BucketStore("export", s3)
    checkpoint = verify_checkpoint(store.read("checkpoint") or b"", kms_public_key(key, boto3.client("kms")), origin=ORIGIN)
    assert checkpoint.root.hex() == answer["root"]
    assert len(list(walk(TiledLedger(9, store.read), 9, [checkpoint]))) == 9


def test_every_version_of_the_export_is_locked(world):
    _, s3, _ = world
    handler({}, None)
    handler({}, None)
    versions = s3.list_object_versions(Bucket="export")["Versions"]
    assert sorted(one["Key"] for one in versions) == [
        "checkpoint", "checkpoint", "checkpoints/000000000000", "checkpoints/000000000001", "public_key.pem", "tile/0/000.p/5", "tile/entries/000.p/5",
    ]  # fmt: skip
    for one in versions:
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.delete_object(Bucket="export", Key=one["Key"], VersionId=one["VersionId"])


def test_a_table_that_was_set_back_is_not_signed(world, dynamodb):
    ledger, _, _ = world
    handler({}, None)
    for item in dynamodb.scan(TableName="ledger")["Items"]:
        dynamodb.delete_item(TableName="ledger", Key={"key": item["key"]})
    _append(ledger, 0, 2)
    with pytest.raises(LedgerError) as caught:
        sign_and_export(os.environ, datetime.now(UTC))
    assert (caught.value.slug, ledger.checkpoint_count()) == ("truncated", 0)
