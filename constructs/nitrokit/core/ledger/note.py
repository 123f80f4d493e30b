"""Signed notes. Source: C2SP signed-note: a text, an empty line, and signature lines that name their key; signatures of unknown keys are ignored.

The signature type is 0x02, ECDSA in DER, whose key id is the SHA-256 of the key's SubjectPublicKeyInfo. P-256 with SHA-256 is what other implementations verify
(github.com/transparency-dev/formats); a P-384 key signs SHA-384, as KMS has it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key, load_pem_public_key

from nitrokit.core.ledger.errors import LedgerError, LedgerKeyError

MAX_NOTE = 16 * 1024
_TYPE_ECDSA = b"\x02"
_KEY_ID = 4
_ALGORITHMS: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "secp256r1": ("ECDSA_SHA_256", hashes.SHA256()),
    "secp384r1": ("ECDSA_SHA_384", hashes.SHA384()),
}
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_NAME = re.compile(r"[^\s+\x00-\x1f]{1,256}")


@dataclass(frozen=True)
class NoteKey:
    """A public key under the name by which notes call it. Raises LedgerKeyError for another curve than P-256 and P-384, and for a name with spaces or plus signs."""

    name: str
    public_key: ec.EllipticCurvePublicKey

    def __post_init__(self) -> None:
        if self.public_key.curve.name not in _ALGORITHMS:
            raise LedgerKeyError(
                "curve", "checkpoints are signed on P-256 or P-384", got=self.public_key.curve.name, expected="a key on P-256"
            )
        if not _NAME.fullmatch(self.name):
            raise LedgerKeyError(
                "name",
                "not the name of a ledger",
                got=repr(self.name)[:120],
                expected="no spaces and no plus sign, e.g. example.com/ledger",
            )

    @property
    def algorithm(self) -> str:
        """KMS's name of the signature algorithm."""
        return _ALGORITHMS[self.public_key.curve.name][0]

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> bytes:
        """4 bytes."""
        return hashlib.sha256(self.spki).digest()[:_KEY_ID]

    @property
    def verifier_key(self) -> str:
        """The key as Go's golang.org/x/mod/sumdb/note and its relatives take it."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_TYPE_ECDSA + self.spki).decode()}"


@dataclass(frozen=True)
class NoteSigner:
    """Who signs. ``sign``: message → ECDSA signature in DER, by the hash of the key's curve."""

    key: NoteKey
    sign: Callable[[bytes], bytes]


def load_public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A public key from PEM or DER (SubjectPublicKeyInfo). Raises LedgerKeyError."""
    try:
        key = load_pem_public_key(data) if data.lstrip().startswith(b"-----BEGIN") else load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LedgerKeyError(
            "public-key", "not a public key", got=str(error)[:120], expected="PEM or DER, as `aws kms get-public-key` gives it"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise LedgerKeyError("public-key", "another kind of key", got=type(key).__name__, expected="P-256 or P-384")
    return key


def local_signer(name: str, key: ec.EllipticCurvePrivateKey) -> NoteSigner:
    """Signs with a key at hand."""
    note_key = NoteKey(name, key.public_key())
    algorithm = ec.ECDSA(_ALGORITHMS[key.curve.name][1])
    return NoteSigner(note_key, lambda message: key.sign(message, algorithm))


def sign_note(text: str, signer: NoteSigner) -> str:
    """The signed note; ``text`` ends with a newline. Raises LedgerError where the signer's signature does not hold under its own key."""
    note = f"{text}\n— {signer.key.name} {base64.b64encode(signer.key.key_id + signer.sign(text.encode())).decode()}\n"
    verify_note(note, signer.key)
    return note


def verify_note(note: str | bytes, key: NoteKey) -> str:
    """The text that ``key`` has signed. Raises LedgerError."""
    text, lines = split_note(note)
    for line in lines:
        name, signature = _signature(line)
        if (name, signature[:_KEY_ID]) == (key.name, key.key_id):
            try:
                key.public_key.verify(signature[_KEY_ID:], text.encode(), ec.ECDSA(_ALGORITHMS[key.public_key.curve.name][1]))
            except InvalidSignature as error:
                raise LedgerError(
                    "signature", "the checkpoint's signature does not hold", got=f"key {name}", do="treat it as forged"
                ) from error
            return text
    raise LedgerError(
        "unsigned",
        "the checkpoint is not signed by the key that you trust",
        got=", ".join(_signature(line)[0] for line in lines)[:200],
        expected=f"{key.name}, key id {key.key_id.hex()}",
        do="get the right public key, from where you trust it",
    )


def split_note(note: str | bytes) -> tuple[str, list[str]]:
    """A note's text and its signature lines, of which there is at least one; nobody has checked them. Raises LedgerError."""
    try:
        text = note if isinstance(note, str) else note.decode()
        if len(text.encode()) > MAX_NOTE or re.search(r"[\x00-\x09\x0b-\x1f]", text):
            raise ValueError("too long, or control characters")
        body, empty, signatures = text.rpartition("\n\n")
        if not empty or not signatures.endswith("\n"):
            raise ValueError("no text, or no signature")
    except ValueError as error:
        raise _malformed(str(error)) from error
    lines = signatures[:-1].split("\n")
    for line in lines:
        _signature(line)
    return body + "\n", lines


def _signature(line: str) -> tuple[str, bytes]:
    found = _SIGNATURE.fullmatch(line)
    try:
        signature = base64.b64decode(found[2], validate=True) if found else b""
    except binascii.Error as error:
        raise _malformed(line) from error
    if found is None or len(signature) <= _KEY_ID:
        raise _malformed(line)
    return found[1], signature


def _malformed(got: str) -> LedgerError:
    return LedgerError("note", "not a signed note", got=got[:120], expected="text, an empty line, signature lines (C2SP signed-note)")
