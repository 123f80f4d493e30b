"""Signing and exporting the ledger: KMS's signatures (moto's, made for real), deaths at every call, and nothing signed or exported that does not continue what was."""

from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from cryptography.hazmat.primitives.asymmetric import ec

from nitrokit.core.ledger import (
    PASS,
    LedgerEntry,
    LedgerError,
    TiledLedger,
    local_signer,
    sign_checkpoint,
    verify_checkpoint,
    walk,
)
from nitrokit.handlers.ledger_export import BucketStore, ExportError, export_ledger, last_checkpoint
from nitrokit.handlers.ledger_folder import FolderStore
from nitrokit.handlers.ledger_signing import LedgerSigningError, kms_public_key, kms_signer, sign_ledger
from nitrokit.handlers.ledger_store import Ledger

TIME = datetime(2026, 6, 7, tzinfo=UTC)
ORIGIN = "arn:aws:dynamodb:eu-west-1:123456789012:table/ledger"
KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = local_signer(ORIGIN, KEY)


def _entries(start, end):
    return [LedgerEntry(f"id{number}", TIME, "hello", "i-1", "test", PASS) for number in range(start, end)]


@pytest.fixture
def ledger(dynamodb):
    ledger = Ledger("ledger", dynamodb, sleep=lambda _: None)
    ledger.append_all(_entries(0, 5))
    return ledger


def _verified(note, key=KEY):
    return verify_checkpoint(note, key.public_key() if hasattr(key, "public_key") else key, origin=ORIGIN)


@pytest.mark.parametrize(("spec", "algorithm"), [("ECC_NIST_P256", "ECDSA_SHA_256"), ("ECC_NIST_P384", "ECDSA_SHA_384")])
def test_kms_signs_and_its_public_key_verifies(ledger, spec, algorithm):
    kms = boto3.client("kms", region_name="eu-west-1")
    arn = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
    checkpoint = _verified(sign_ledger(ledger, kms_signer(ORIGIN, arn, kms), TIME), kms_public_key(arn, kms))
    assert (checkpoint.size, checkpoint.root, checkpoint.time, checkpoint.algorithm) == (5, ledger.head().frontier.root(), TIME, algorithm)


def test_a_key_that_cannot_sign_is_said():
    class Kms:
        def get_public_key(self, **_):
            raise ClientError({"Error": {"Code": "UnsupportedOperationException", "Message": "symmetric"}}, "GetPublicKey")

    with pytest.raises(LedgerSigningError) as caught:
        kms_signer(ORIGIN, "key", Kms())
    assert (caught.value.code, caught.value.exit_code) == ("ledger/kms", 3)


def test_checkpoints_follow_one_another(ledger):
    first = _verified(sign_ledger(ledger, SIGNER, TIME))
    again = _verified(sign_ledger(ledger, SIGNER, TIME + timedelta(hours=1)))
    ledger.append_all(_entries(5, 60))
    last = _verified(sign_ledger(ledger, SIGNER, TIME - timedelta(minutes=1)))
    assert [first.size, again.size, last.size] == [5, 5, 60], "a clock that is off by a minute stops nothing: sizes order them"
    assert [_verified(note) for note in ledger.checkpoints(0, 3)] == [first, again, last]
    assert len(list(walk(ledger, 60, [first, again, last]))) == 60


def test_of_two_who_sign_at_once_both_are_kept(ledger):
    """The other one signs between this one's reading and its writing."""
    calls: list[bytes] = []

    def sign(message):
        calls.append(message)
        if len(calls) == 1:
            ledger.append_all(_entries(5, 7))
            sign_ledger(ledger, SIGNER, TIME)
        return SIGNER.sign(message)

    note = sign_ledger(ledger, type(SIGNER)(SIGNER.key, sign), TIME)
    assert [_verified(one).size for one in ledger.checkpoints(0, ledger.checkpoint_count())] == [7, 7]
    assert list(ledger.checkpoints(1, 2)) == [note]


def _put(dynamodb, key, **attributes):
    dynamodb.put_item(TableName="ledger", Item={"key": {"S": key}, **attributes})


def _set_back(dynamodb):
    """The table as it was: two entries, no checkpoint."""
    table = {item["key"]["S"]: item for item in dynamodb.scan(TableName="ledger")["Items"]}
    for key in table:
        dynamodb.delete_item(TableName="ledger", Key={"key": {"S": key}})
    Ledger("ledger", dynamodb).append_all(_entries(0, 2))


def test_what_does_not_continue_the_last_checkpoint_is_not_signed(ledger, dynamodb):
    sign_ledger(ledger, SIGNER, TIME)
    forged = sign_checkpoint(5, bytes(32), TIME, SIGNER)
    _put(dynamodb, "checkpoint/000000000000", note={"S": forged})
    with pytest.raises(LedgerError) as caught:
        sign_ledger(ledger, SIGNER, TIME)
    assert (caught.value.slug, ledger.checkpoint_count()) == ("fork", 1)
    _put(
        dynamodb,
        "checkpoint/000000000000",
        note={"S": sign_checkpoint(5, bytes(32), TIME, local_signer(ORIGIN, ec.generate_private_key(ec.SECP256R1())))},
    )
    with pytest.raises(LedgerError) as caught:
        sign_ledger(ledger, SIGNER, TIME)
    assert caught.value.slug == "unsigned"


def test_another_ledgers_checkpoint_by_the_same_key_is_not_continued(ledger, dynamodb):
    sign_ledger(ledger, SIGNER, TIME)
    other = local_signer("example.com/other", KEY)
    _put(dynamodb, "checkpoint/000000000000", note={"S": sign_checkpoint(5, ledger.head().frontier.root(), TIME, other)})
    with pytest.raises(LedgerError) as caught:
        sign_ledger(ledger, SIGNER, TIME)
    assert (caught.value.slug, ledger.checkpoint_count()) == ("origin", 1)


def test_a_ledger_that_was_set_back_is_not_signed_when_its_export_is_known(ledger, dynamodb):
    known = _verified(sign_ledger(ledger, SIGNER, TIME))
    _set_back(dynamodb)
    with pytest.raises(LedgerError) as caught:
        sign_ledger(ledger, SIGNER, TIME, known=[known])
    assert caught.value.slug == "truncated"
    head = {"size": {"N": "2"}, "peaks": {"B": b"x" * 32}, "last": {"B": b"x" * 32}}
    _put(dynamodb, "head", **head)
    with pytest.raises(LedgerError) as caught:
        sign_ledger(ledger, SIGNER, TIME)
    assert caught.value.slug == "head"


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path, dynamodb):
    """Where an export goes: both behave alike."""
    if request.param == "folder":
        return FolderStore(tmp_path / "export")
    s3 = boto3.client("s3", region_name="eu-west-1")
    s3.create_bucket(Bucket="export", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}, ObjectLockEnabledForBucket=True)
    return BucketStore("export", s3, "ledger/")


def _export(ledger, store):
    return export_ledger(ledger, store, KEY.public_key())


def _check(store, size):
    checkpoint = last_checkpoint(store, KEY.public_key())
    assert checkpoint is not None and checkpoint.size == size
    assert len(list(walk(TiledLedger(size, store.read), size, [checkpoint]))) == size


def test_an_export_grows_with_the_ledger(ledger, store):
    with pytest.raises(LedgerError) as caught:
        _export(ledger, store)
    assert (caught.value.slug, last_checkpoint(store, KEY.public_key())) == ("no-checkpoint", None)
    for size in (5, 5, 60, 258):
        ledger.append_all(_entries(0, size))
        sign_ledger(ledger, SIGNER, TIME)
        if size != 60:
            assert _export(ledger, store).size == size
            _check(store, size)
    notes = list(ledger.checkpoints(0, 4))
    assert [store.read(f"checkpoints/{number:012d}").decode() for number in range(4)] == notes
    assert store.read("public_key.pem").startswith(b"-----BEGIN PUBLIC KEY-----")


class Dying:
    """A store at whose call number ``at`` the exporter dies."""

    def __init__(self, store, at):
        self.store, self.left = store, at

    def __getattr__(self, name):
        def call(*arguments):
            self.left -= 1
            if self.left < 0:
                raise EndpointConnectionError(endpoint_url="x")
            return getattr(self.store, name)(*arguments)

        return call


def test_an_export_that_dies_at_any_call_is_resumed(ledger, store):
    ledger.append_all(_entries(0, 20))
    sign_ledger(ledger, SIGNER, TIME)
    for at in range(40):
        try:
            export_ledger(ledger, Dying(store, at), KEY.public_key())
        except EndpointConnectionError:
            before = last_checkpoint(store, KEY.public_key())
            assert before is None, "the checkpoint comes last"
            continue
        break
    assert at >= 8
    _check(store, 20)


def test_an_export_is_another_witness(ledger, store, dynamodb):
    """A table that was written anew, by somebody with the key even, does not get into the export."""
    sign_ledger(ledger, SIGNER, TIME)
    _export(ledger, store)
    _set_back(dynamodb)
    sign_ledger(ledger, SIGNER, TIME)
    with pytest.raises(LedgerError) as caught:
        _export(ledger, store)
    assert caught.value.slug == "truncated"
    ledger.append_all(_entries(10, 20))
    sign_ledger(ledger, SIGNER, TIME)
    with pytest.raises(LedgerError) as caught:
        _export(ledger, store)
    assert caught.value.slug in ("fork", "export-differs")
    _check(store, 5)


def test_files_in_an_export_are_never_replaced(ledger, store):
    sign_ledger(ledger, SIGNER, TIME)
    store.create("tile/entries/000.p/5", b"other")
    with pytest.raises(LedgerError) as caught:
        _export(ledger, store)
    assert (caught.value.slug, store.read("tile/entries/000.p/5")) == ("export-differs", b"other")
    assert (store.create("new", b"1"), store.create("new", b"2"), store.read("new"), store.read("none")) == (True, False, b"1", None)


def test_a_table_whose_hashes_were_edited_is_not_exported(ledger, store, dynamodb):
    sign_ledger(ledger, SIGNER, TIME)
    item = dynamodb.get_item(TableName="ledger", Key={"key": {"S": "entry/000000000004"}})["Item"]
    _put(dynamodb, "entry/000000000004", **{**{name: value for name, value in item.items() if name != "key"}, "record": {"B": b"edited"}})
    with pytest.raises(LedgerError) as caught:
        _export(ledger, store)
    assert (caught.value.slug, last_checkpoint(store, KEY.public_key())) == ("fork", None)


def test_a_record_that_was_edited_in_a_full_tile_is_not_exported(ledger, store, dynamodb):
    """The hashes above it, which the proofs are made from, are still the right ones."""
    ledger.append_all(_entries(5, 300))
    item = dynamodb.get_item(TableName="ledger", Key={"key": {"S": "entry/000000000007"}})["Item"]
    _put(dynamodb, "entry/000000000007", **{**{name: value for name, value in item.items() if name != "key"}, "record": {"B": b"edited"}})
    sign_ledger(ledger, SIGNER, TIME)
    with pytest.raises(LedgerError) as caught:
        _export(ledger, store)
    assert (caught.value.slug, last_checkpoint(store, KEY.public_key())) == ("fork", None)
    assert store.read("tile/entries/000") is None, "what is written into an export stays"


def test_places_that_cannot_be_used_are_said(tmp_path, dynamodb):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError):
        FolderStore(tmp_path / "file").create("a/b", b"x")
    with pytest.raises(ExportError):
        FolderStore(tmp_path).read("")
    assert FolderStore(tmp_path / "file").read("a") is None
    s3 = boto3.client("s3", region_name="eu-west-1")
    for call in (lambda one: one.read("a"), lambda one: one.create("a", b""), lambda one: one.replace("a", b"")):
        with pytest.raises(ExportError) as caught:
            call(BucketStore("nowhere", s3))
        assert (caught.value.code, caught.value.exit_code) == ("ledger/bucket", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left lying about"
