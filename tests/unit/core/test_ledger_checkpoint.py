"""Signed notes and checkpoints: openssl verifies what we sign, and nothing but a whole, signed checkpoint is read."""

import base64
import subprocess
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.ledger import (
    EMPTY_ROOT,
    Checkpoint,
    LedgerError,
    LedgerKeyError,
    NoteKey,
    NoteSigner,
    UnverifiedCheckpoint,
    load_public_key,
    local_signer,
    parse_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from nitrokit.core.ledger.note import MAX_NOTE, sign_note, split_note, verify_note

ORIGIN = "example.com/ledger"
TIME = datetime(2026, 6, 7, 12, 0, 0, tzinfo=UTC)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
NOTE = sign_checkpoint(5, EMPTY_ROOT, TIME, local_signer(ORIGIN, P256))


def _refused(call, *slugs, error=LedgerError):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.slug in slugs


@pytest.mark.parametrize(("key", "algorithm", "digest"), [(P256, "ECDSA_SHA_256", "sha256"), (P384, "ECDSA_SHA_384", "sha384")])
def test_openssl_verifies_a_checkpoint(key, algorithm, digest, tmp_path):
    time = datetime(2026, 6, 7, 14, 0, 0, 999, tzinfo=timezone(timedelta(hours=2)))
    note = sign_checkpoint(5, EMPTY_ROOT, time, local_signer(ORIGIN, key))
    text, _, signature = note.rpartition("\n\n")
    assert text.split("\n") == [ORIGIN, "5", base64.b64encode(EMPTY_ROOT).decode(), "time 2026-06-07T12:00:00Z", f"algorithm {algorithm}"]
    dash, name, encoded = signature.rstrip("\n").split(" ")
    assert (dash, name) == ("—", ORIGIN)
    (tmp_path / "text").write_bytes(text.encode() + b"\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(encoded)[4:])
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key").write_bytes(pem)
    command = ["openssl", "dgst", f"-{digest}", "-verify", tmp_path / "key", "-signature", tmp_path / "signature", tmp_path / "text"]
    assert "Verified OK" in subprocess.run(command, capture_output=True, text=True, check=False).stdout
    checkpoint = verify_checkpoint(note, load_public_key(pem), origin=ORIGIN)
    assert (checkpoint.size, checkpoint.root, checkpoint.time, checkpoint.origin) == (5, EMPTY_ROOT, TIME, ORIGIN)
    assert parse_checkpoint(note.encode()) == UnverifiedCheckpoint(ORIGIN, 5, EMPTY_ROOT, TIME, algorithm)


def test_a_key_reads_as_other_implementations_write_it():
    """Sigstore's Rekor key, as a verifier key in github.com/transparency-dev/formats: note/note_verifier_test.go."""
    spki = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwrkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw=="
    key = NoteKey("rekor.sigstore.dev", load_public_key(base64.b64decode(spki)))
    assert key.key_id.hex() == "c0d23d6a"
    assert key.verifier_key == "rekor.sigstore.dev+c0d23d6a+" + base64.b64encode(b"\x02" + base64.b64decode(spki)).decode()


def test_another_key_origin_or_algorithm_is_refused():
    _refused(lambda: verify_checkpoint(NOTE, P384.public_key()), "unsigned")
    _refused(lambda: verify_checkpoint(NOTE, ec.generate_private_key(ec.SECP256R1()).public_key()), "unsigned")
    _refused(lambda: verify_checkpoint(NOTE, P256.public_key(), origin="example.com/other"), "origin")
    text, _ = split_note(NOTE)
    other = sign_note(text.replace("ECDSA_SHA_256", "ECDSA_SHA_384"), local_signer(ORIGIN, P256))
    _refused(lambda: verify_checkpoint(other, P256.public_key()), "algorithm")
    with pytest.raises(TypeError):
        Checkpoint(ORIGIN, 5, EMPTY_ROOT, TIME, "ECDSA_SHA_256", _token=None)


@given(st.data())
def test_any_edit_of_a_signed_checkpoint_is_refused(data):
    encoded = bytearray(NOTE.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((LedgerError, LedgerKeyError)):
        verify_checkpoint(bytes(encoded), P256.public_key())


def test_signatures_of_unknown_keys_are_ignored_and_one_that_fails_is_not():
    """C2SP signed-note: a witness may have signed beside us."""
    witness = NOTE + "— witness.example " + base64.b64encode(bytes(68)).decode() + "\n"
    assert verify_checkpoint(witness, P256.public_key()).size == 5
    forged = f"{split_note(NOTE)[0]}\n— {ORIGIN} {base64.b64encode(NoteKey(ORIGIN, P256.public_key()).key_id + bytes(70)).decode()}\n"
    _refused(lambda: verify_note(forged, NoteKey(ORIGIN, P256.public_key())), "signature")


def test_a_signer_that_does_not_sign_under_its_key_is_found_out():
    signer = NoteSigner(NoteKey(ORIGIN, P256.public_key()), lambda message: P384.sign(message, ec.ECDSA(hashes.SHA256())))
    _refused(lambda: sign_checkpoint(5, EMPTY_ROOT, TIME, signer), "signature")


@pytest.mark.parametrize(
    "note",
    ["", "\n\n", "text\n", "text\n\nsignature\n", "text\n\n— name \n", "text\n\n— name AAAA\n", "text\n\n— name AAAAA=\n", "te\txt\n\n— name AAAAAAAA\n", "x" * MAX_NOTE + "\n\n— name AAAAAAAA\n",
     "text\n\n— name AAAAAAAA", "text\n\n— na+me AAAAAAAA\n", "text\n\n- name AAAAAAAA\n", b"\xff\n\n\xe2\x80\x94 name AAAAAAAA\n", "\ud800\n\n— name AAAAAAAA\n"],
)  # fmt: skip
def test_what_is_no_note_is_refused(note):
    _refused(lambda: parse_checkpoint(note), "note")


ROOT = base64.b64encode(EMPTY_ROOT).decode()
END = "time 2026-06-07T12:00:00Z\nalgorithm ECDSA_SHA_256\n"


@pytest.mark.parametrize(
    "text",
    ["o\n", f"\n5\n{ROOT}\n{END}", f"o\n05\n{ROOT}\n{END}", f"o\n-1\n{ROOT}\n{END}", f"o\n{10**19}\n{ROOT}\n{END}", f"o\n5\n{ROOT[:-4]}\n{END}", f"o\n5\n!{ROOT[1:]}\n{END}", 
     f"o\n5\n{ROOT}\n{END}more\n",
     f"o\n5\n{ROOT}\ntime 2026-06-07\nalgorithm x\n", f"o\n5\n{ROOT}\nalgorithm x\ntime 2026-06-07T12:00:00Z\n", f"o\n5\n{ROOT}\n{END}".replace("06-07", "6-7"), f"o\n5\n{ROOT[:-2]}V=\n{END}"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text):
    note = f"{text}\n— o {base64.b64encode(bytes(70)).decode()}\n"
    _refused(lambda: parse_checkpoint(note), "checkpoint")


def test_other_keys_and_names_are_refused():
    pem = (
        rsa.generate_private_key(65537, 2048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for data in (b"", b"-----BEGIN x", pem):
        _refused(lambda data=data: load_public_key(data), "public-key", error=LedgerKeyError)
    _refused(lambda: NoteKey(ORIGIN, ec.generate_private_key(ec.SECP521R1()).public_key()), "curve", error=LedgerKeyError)
    for name in ("", "a b", "a+b", "a\u2003b"):
        _refused(lambda name=name: NoteKey(name, P256.public_key()), "name", error=LedgerKeyError)
    _refused(lambda: local_signer(ORIGIN, ec.generate_private_key(ec.SECP521R1())), "curve", error=LedgerKeyError)
