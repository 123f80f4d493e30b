"""The ledger that a command reads: an export in a folder, or the live table; and the key under which it is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nitrokit.cli.files import read_file
from nitrokit.errors import UsageError
from nitrokit.image import aws

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from nitrokit.core.ledger import TiledLedger, UnverifiedCheckpoint
    from nitrokit.handlers.ledger_store import Head, Ledger


@dataclass(frozen=True)
class Trust:
    """``key``: what checkpoints must be signed by. ``named``: the caller named it; else it is the export's own, and whoever made the export chose it."""

    key: ec.EllipticCurvePublicKey | None
    named: bool

    def check(self, note: str | bytes) -> UnverifiedCheckpoint:
        """A checkpoint, its signature verified where there is a key. Raises LedgerError, LedgerKeyError."""
        from nitrokit.core.ledger import parse_checkpoint, verify_checkpoint

        return parse_checkpoint(note) if self.key is None else verify_checkpoint(note, self.key)


@dataclass(frozen=True)
class OpenedLedger:
    """``notes``: the ledger's checkpoints as signed notes, the oldest first. ``table``: the log again, and where it ends, where it is a live table, which may be ahead of the last checkpoint."""

    name: str
    log: TiledLedger | Ledger
    size: int
    notes: list[str]
    trust: Trust
    table: tuple[Ledger, Head] | None = None


def open_ledger(folder: Path | None, table: str | None, region: str | None, key: Path | None, kms_key: str | None) -> OpenedLedger:
    """Raises UsageError where not exactly one ledger is named; LedgerError, LedgerUnavailableError."""
    if (folder is None) == (table is None):
        raise UsageError(
            "no-ledger",
            "one ledger must be named",
            got="both" if folder else "none",
            expected="the folder of an export, or --table NAME",
            do="name one of them",
        )
    trusted = public_key(key, kms_key, region)
    if folder is not None:
        return _open_folder(folder, trusted)
    assert table is not None
    return open_table(live_ledger(table, region), Trust(trusted, named=trusted is not None))


def open_table(ledger: Ledger, trust: Trust) -> OpenedLedger:
    """A live table. Raises LedgerError, LedgerUnavailableError."""
    # The checkpoints first: what is appended meanwhile is behind them.
    notes = list(ledger.checkpoints(0, ledger.checkpoint_count()))
    head = ledger.head()
    return OpenedLedger(ledger.table.name, ledger, head.frontier.size, notes, trust, (ledger, head))


def _open_folder(folder: Path, trusted: ec.EllipticCurvePublicKey | None) -> OpenedLedger:
    from nitrokit.core.ledger import LedgerError, TiledLedger, load_public_key
    from nitrokit.core.ledger.tiles import CHECKPOINT, PUBLIC_KEY, checkpoint_path
    from nitrokit.handlers.ledger_folder import FolderStore

    read = FolderStore(folder).read
    last, own = read(CHECKPOINT), read(PUBLIC_KEY)
    if last is None:
        raise UsageError(
            "no-export",
            f"{folder} holds no export of a ledger",
            expected=f"{folder / CHECKPOINT}",
            do="make one with `nitrokit ledger export`",
        )
    trust = Trust(load_public_key(own) if trusted is None and own is not None else trusted, named=trusted is not None)
    notes: list[bytes] = []
    while (note := read(checkpoint_path(len(notes)))) is not None:
        notes.append(note)
    if last not in notes:
        raise LedgerError(
            "gap",
            "a checkpoint is missing in the export",
            got=f"no {checkpoint_path(len(notes))}",
            expected="every checkpoint up to the last",
            do="treat it as removed",
        )
    # An export that was stopped before its last step has a newer one than the last that it tells, and all that belongs to it.
    size = trust.check(notes[-1]).size
    return OpenedLedger(str(folder), TiledLedger(size, read), size, [note.decode(errors="replace") for note in notes], trust)


def live_ledger(table: str, region: str | None) -> Ledger:
    """The ledger in a table. Raises UsageError, EnvironmentProblem without a Region."""
    from nitrokit.handlers.ledger_store import Ledger

    if not table:  # of a variable that is not set: boto3 would refuse it as it does what may pass
        raise UsageError("no-ledger", "one ledger must be named", got="an empty name", expected="--table NAME", do="name one of them")
    return Ledger(table, aws.client("dynamodb", region))


def public_key(path: Path | None, kms_key: str | None, region: str | None) -> ec.EllipticCurvePublicKey | None:
    """The ledger's key: a file's, or as KMS tells it. Raises UsageError, LedgerKeyError, LedgerSigningError."""
    from nitrokit.core.ledger import load_public_key

    if path is not None and kms_key is not None:
        raise UsageError("no-key", "one key must be named", got="both", expected="--key FILE or --kms-key ARN", do="leave one out")
    if path is not None:
        return load_public_key(read_file(path))
    if kms_key is None:
        return None
    from nitrokit.handlers.ledger_signing import kms_public_key

    return kms_public_key(kms_key, aws.client("kms", region))
