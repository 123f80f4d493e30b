"""Signing the ledger: a checkpoint of what it is now, by a key in KMS. What does not continue the last checkpoint is never signed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives.asymmetric import ec

from nitrokit.core.ledger import (
    Checkpoint,
    LedgerError,
    NoteKey,
    NoteSigner,
    consistency_proof,
    load_public_key,
    root_of,
    sign_checkpoint,
    verify_checkpoint,
    verify_consistency,
)
from nitrokit.errors import EnvironmentProblem
from nitrokit.handlers.ledger_store import Ledger


class LedgerSigningError(EnvironmentProblem):
    """KMS does not sign."""

    area = "ledger"


def kms_signer(origin: str, key_id: str, kms: Any) -> NoteSigner:
    """Signs in KMS (kms:GetPublicKey, kms:Sign). ``origin``: the ledger's name in its checkpoints. ``kms``: boto3's client. Raises LedgerSigningError, LedgerKeyError."""
    key = NoteKey(origin, kms_public_key(key_id, kms))

    def sign(message: bytes) -> bytes:
        # A checkpoint is far below the 4096 bytes that KMS takes raw.
        answer = _call(kms.sign, KeyId=key_id, Message=message, MessageType="RAW", SigningAlgorithm=key.algorithm)
        return bytes(answer["Signature"])

    return NoteSigner(key, sign)


def kms_public_key(key_id: str, kms: Any) -> ec.EllipticCurvePublicKey:
    """The public key, as KMS tells it (kms:GetPublicKey). Raises LedgerSigningError, LedgerKeyError."""
    return load_public_key(_call(kms.get_public_key, KeyId=key_id)["PublicKey"])


def _call(operation: Any, **arguments: Any) -> Any:
    try:
        return operation(**arguments)
    except (ClientError, BotoCoreError) as error:
        raise LedgerSigningError(
            "kms",
            "KMS did not sign, or did not tell its public key",
            got=str(error)[:300],
            expected="a SIGN_VERIFY key on P-256 or P-384, kms:Sign and kms:GetPublicKey",
            do="check the key and your credentials",
        ) from error


def sign_ledger(ledger: Ledger, signer: NoteSigner, time: datetime, *, known: Sequence[Checkpoint] = ()) -> str:
    """Sign the ledger as it is now and keep the checkpoint in it; the signed note.

    ``known``: checkpoints kept elsewhere (the last export's), so that a ledger which was set back in its table is not signed. Where two sign at once one checkpoint of a number is kept, and the
    other signer signs anew behind it. Raises LedgerError for a ledger that does not continue a checkpoint, LedgerUnavailableError, LedgerSigningError.
    """
    while True:
        number = ledger.checkpoint_count()
        trusted = [*known]
        if number:
            (last,) = ledger.checkpoints(number - 1, number)
            trusted.append(verify_checkpoint(last, signer.key.public_key, origin=signer.key.name))
        frontier = ledger.head().frontier
        size, root = frontier.size, frontier.root()
        if root_of(size, ledger.nodes) != root:
            raise LedgerError(
                "head",
                "the ledger's head is not that of its records",
                got=f"{size} entries",
                do="run `nitrokit ledger verify`; nothing was signed",
            )
        for one in trusted:
            verify_consistency(one.size, one.root, size, root, consistency_proof(one.size, size, ledger.nodes))
        note = sign_checkpoint(size, root, time, signer)
        if ledger.add_checkpoint(number, note):
            return note
