"""Checkpoints: the ledger's size and root at a time, signed. Source: C2SP tlog-checkpoint.

Beside the three lines that the format demands, two extension lines: when it was signed, by the signer's clock, and by which algorithm.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec

from nitrokit.core.ledger.errors import LedgerError
from nitrokit.core.ledger.merkle import HASH_LENGTH
from nitrokit.core.ledger.note import NoteKey, NoteSigner, sign_note, split_note, verify_note

_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")
_TIME, _ALGORITHM = "time ", "algorithm "
_TOKEN = object()


@dataclass(frozen=True)
class UnverifiedCheckpoint:
    """What a checkpoint claims. ``origin``: the ledger's name. ``root``: of the first ``size`` entries. ``time``: the signer's clock, in seconds."""

    origin: str
    size: int
    root: bytes
    time: datetime
    algorithm: str

    def text(self) -> str:
        """What is signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\n{_TIME}{_format_time(self.time)}\n{_ALGORITHM}{self.algorithm}\n"


@dataclass(frozen=True)
class Checkpoint(UnverifiedCheckpoint):
    """A checkpoint that the ledger's key has signed."""

    _token: object = field(repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self._token is not _TOKEN:
            raise TypeError("only verification makes checkpoints")


def sign_checkpoint(size: int, root: bytes, time: datetime, signer: NoteSigner) -> str:
    """The signed note. The ledger's origin is the key's name. Raises LedgerError. Whoever signs must have made sure that this tree continues every one that was signed before."""
    claim = UnverifiedCheckpoint(signer.key.name, size, root, time.astimezone(UTC).replace(microsecond=0), signer.key.algorithm)
    return sign_note(claim.text(), signer)


def verify_checkpoint(note: str | bytes, public_key: ec.EllipticCurvePublicKey, *, origin: str | None = None) -> Checkpoint:
    """The checkpoint that this key has signed. ``origin``: the ledger it must be of; default: any that the key signs for. Raises LedgerError, LedgerKeyError."""
    claim = parse_checkpoint(note)
    if origin is not None and claim.origin != origin:
        raise LedgerError("origin", "the checkpoint of another ledger", got=claim.origin[:200], expected=origin)
    key = NoteKey(claim.origin, public_key)
    verify_note(note, key)
    if claim.algorithm != key.algorithm:
        raise LedgerError(
            "algorithm", "the checkpoint names another algorithm than its key has", got=claim.algorithm[:80], expected=key.algorithm
        )
    return Checkpoint(claim.origin, claim.size, claim.root, claim.time, claim.algorithm, _token=_TOKEN)


def parse_checkpoint(note: str | bytes) -> UnverifiedCheckpoint:
    """What a checkpoint claims; its signature is not looked at. Raises LedgerError."""
    text, _ = split_note(note)
    lines = text[:-1].split("\n")
    if (
        len(lines) != 5
        or not lines[0]
        or not _SIZE.fullmatch(lines[1])
        or not lines[3].startswith(_TIME)
        or not lines[4].startswith(_ALGORITHM)
    ):
        raise _malformed(text)
    try:
        root = base64.b64decode(lines[2], validate=True)
        claim = UnverifiedCheckpoint(lines[0], int(lines[1]), root, _parse_time(lines[3]), lines[4].removeprefix(_ALGORITHM))
    except (binascii.Error, ValueError) as error:
        raise _malformed(text) from error
    if len(root) != HASH_LENGTH or claim.text() != text:
        raise _malformed(text)
    return claim


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_time(line: str) -> datetime:
    return datetime.strptime(line.removeprefix(_TIME), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _malformed(text: str) -> LedgerError:
    return LedgerError(
        "checkpoint",
        "not a checkpoint of a ledger",
        got=repr(text)[:200],
        expected="origin, size, root hash, time and algorithm, a line each",
    )
