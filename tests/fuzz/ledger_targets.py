"""What a ledger's reader is given by its writer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from nitrokit.core.ledger import (
    LedgerEntry,
    LedgerRecord,
    NoteKey,
    NoteSigner,
    load_public_key,
    parse_checkpoint,
    parse_record,
    sign_checkpoint,
    verify_checkpoint,
)
from nitrokit.core.ledger.tiles import join_bundle, split_bundle

_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def _ledger_record(data: bytes) -> None:
    assert parse_record(data).encode() == data, "one value, one encoding"


@cache
def _ledger_key_pair() -> EllipticCurvePrivateKey:
    return derive_private_key(7, SECP256R1())


def _ledger_checkpoint(data: bytes) -> None:
    parse_checkpoint(data)
    verify_checkpoint(data, _ledger_key_pair().public_key())


def _ledger_key(data: bytes) -> None:
    load_public_key(data)


def _ledger_bundle(data: bytes) -> None:
    records = split_bundle(data[1:], data[0] if data else 0)
    assert join_bundle(records) == data[1:]


def _made_records() -> list[bytes]:
    pcrs = {index: bytes([index]) * 48 for index in (0, 1, 2, 24)}
    whole = LedgerEntry("id", _TIME, "hello", "i-1", "test", "FAIL", "why", "i-1-enc1", pcrs, b"nonce", b"document", None, bytes(32), "1.0")
    small = LedgerEntry("id", _TIME, "hello", "i-1", "test", "PASS")
    return [LedgerRecord(300, bytes(32), whole).encode(), LedgerRecord(0, bytes(32), small).encode()]


def _made_checkpoint() -> list[bytes]:
    key = _ledger_key_pair()
    signer = NoteSigner(NoteKey("o", key.public_key()), lambda message: key.sign(message, ECDSA(SHA256(), deterministic_signing=True)))
    return [sign_checkpoint(5, bytes(32), _TIME, signer).encode()]


def _made_keys() -> list[bytes]:
    public = _ledger_key_pair().public_key()
    return [
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "ledger_record": _ledger_record,
    "ledger_checkpoint": _ledger_checkpoint,
    "ledger_key": _ledger_key,
    "ledger_bundle": _ledger_bundle,
}
MADE: dict[str, Callable[[], list[bytes]]] = {
    "ledger_record": _made_records,
    "ledger_checkpoint": _made_checkpoint,
    "ledger_key": _made_keys,
    "ledger_bundle": lambda: [b"\x02" + join_bundle(_made_records()), b"\x01\x00\x00"],
}
