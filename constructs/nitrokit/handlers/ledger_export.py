"""Exporting the ledger as files (C2SP tlog-tiles), into a folder or a bucket with Object Lock: nothing that is there is ever replaced but ``checkpoint``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nitrokit.core.ledger import (
    Checkpoint,
    Frontier,
    LedgerError,
    TiledLedger,
    consistency_proof,
    leaf_hash,
    root_of,
    verify_checkpoint,
    verify_consistency,
)
from nitrokit.core.ledger.proofs import subtree_root
from nitrokit.core.ledger.tiles import CHECKPOINT, HEIGHT, PUBLIC_KEY, WIDTH, Tile, checkpoint_path, join_bundle, tiles
from nitrokit.errors import EnvironmentProblem
from nitrokit.handlers.ledger_store import Ledger


class ExportError(EnvironmentProblem):
    """The place for the export cannot be read or written."""

    area = "ledger"


class Store(Protocol):
    """Where an export lies: files by path."""

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None where there is none."""

    def create(self, path: str, data: bytes) -> bool:
        """Make a new file, whole or not at all; False where there is one already."""

    def replace(self, path: str, data: bytes) -> None:
        """Make or replace a file, whole or not at all."""


def export_ledger(ledger: Ledger, store: Store, public_key: ec.EllipticCurvePublicKey) -> Checkpoint:
    """Bring an export up to the ledger's last checkpoint; interrupted and run again, it goes on. Entries behind the checkpoint wait for the next.

    ``public_key``: the ledger's, put beside the files as ``public_key.pem``. Files that are there already must be what the ledger holds now. Raises LedgerError where they are not, where the
    ledger has no checkpoint by this key, or where it does not continue the export; ExportError, LedgerUnavailableError.
    """
    count = ledger.checkpoint_count()
    if count == 0:
        raise LedgerError(
            "no-checkpoint",
            "the ledger was never signed",
            expected="a checkpoint to export",
            do="sign it: AttestationLedger's function does so every hour",
        )
    notes = _missing_checkpoints(ledger, store, count)
    (note,) = ledger.checkpoints(count - 1, count)
    target, old = verify_checkpoint(note, public_key), last_checkpoint(store, public_key)
    _create(store, PUBLIC_KEY, public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    if old is not None:
        verify_consistency(old.size, old.root, target.size, target.root, consistency_proof(old.size, target.size, ledger.nodes))
    # What is written stays, so all of it is checked before, and once more as it lies there.
    _check_root(root_of(target.size, ledger.nodes), target.root, f"{target.size} entries")
    _export_tiles(ledger, store, old.size if old else 0, target.size)
    _check_root(root_of(target.size, TiledLedger(target.size, store.read).nodes), target.root, f"{target.size} exported entries")
    for number, one in notes:
        _create(store, checkpoint_path(number), one.encode())
    store.replace(CHECKPOINT, note.encode())
    return target


def last_checkpoint(store: Store, public_key: ec.EllipticCurvePublicKey) -> Checkpoint | None:
    """The checkpoint that an export was brought up to. Raises LedgerError, ExportError."""
    note = store.read(CHECKPOINT)
    return None if note is None else verify_checkpoint(note, public_key)


def _missing_checkpoints(ledger: Ledger, store: Store, count: int) -> list[tuple[int, str]]:
    """Those that the export has not; they are made in their order, so the newest tells."""
    first = count
    while first and store.read(checkpoint_path(first - 1)) is None:
        first -= 1
    return list(enumerate(ledger.checkpoints(first, count), first))


def _export_tiles(ledger: Ledger, store: Store, old_size: int, new_size: int) -> None:
    for bundle in tiles(old_size, new_size, entries=True):
        records = list(ledger.records(bundle.index * WIDTH, bundle.index * WIDTH + bundle.width))
        leaves, hashes = Tile(0, bundle.index, bundle.width), list(map(leaf_hash, records))
        _check_tile(ledger, leaves, 0, hashes)
        _create(store, bundle.path, join_bundle(records))
        _create(store, leaves.path, b"".join(hashes))
    for tile in tiles(old_size, new_size, entries=False):
        if tile.level:
            nodes = [(tile.level * HEIGHT, tile.index * WIDTH + number) for number in range(tile.width)]
            hashes = ledger.nodes(nodes)
            _check_tile(ledger, tile, tile.level * HEIGHT, hashes)
            _create(store, tile.path, b"".join(hashes))


def _check_tile(ledger: Ledger, tile: Tile, level: int, hashes: Sequence[bytes]) -> None:
    """A tile's hashes are those below the tree's: the root alone does not read what is below a full tile."""
    frontier = Frontier()
    for one in hashes:
        frontier, _ = frontier.append(one)
    first = tile.index * WIDTH
    _check_root(frontier.root(), subtree_root(first << level, (first + tile.width) << level, ledger.nodes), f"in {tile.path}")


def _check_root(found: bytes, signed: bytes, where: str) -> None:
    if found != signed:
        raise LedgerError(
            "fork",
            "the table's records or hashes are not those that were signed",
            got=f"root {found.hex()} {where}",
            expected=signed.hex(),
            do="run `nitrokit ledger verify` on the table",
        )


def _create(store: Store, path: str, data: bytes) -> None:
    """A file that is there already must be the same: an export is another witness of what the ledger was."""
    if not store.create(path, data) and store.read(path) != data:
        raise LedgerError(
            "export-differs",
            "the export holds something else than the ledger: one of them was changed",
            got=path,
            expected="the same bytes in both",
            do="run `nitrokit ledger verify` on both, each with a checkpoint that you trust",
        )


class BucketStore:
    """An export in a bucket, below ``prefix`` (empty, or ending with a slash). ``s3``: boto3's client."""

    def __init__(self, bucket: str, s3: Any, prefix: str = "") -> None:
        self._bucket, self._s3, self._prefix = bucket, s3, prefix

    def read(self, path: str) -> bytes | None:
        answer = self._call("get_object", path, {"NoSuchKey"})
        return None if answer is None else bytes(answer["Body"].read())

    def create(self, path: str, data: bytes) -> bool:
        # Object Lock demands a checksum, which boto3 sends; If-None-Match keeps the first version the only one.
        return self._call("put_object", path, {"PreconditionFailed", "ConditionalRequestConflict"}, Body=data, IfNoneMatch="*") is not None

    def replace(self, path: str, data: bytes) -> None:
        self._call("put_object", path, set(), Body=data)

    def _call(self, operation: str, path: str, expected: set[str], **arguments: Any) -> Any:
        try:
            return getattr(self._s3, operation)(Bucket=self._bucket, Key=self._prefix + path, **arguments)
        except ClientError as error:
            if error.response["Error"]["Code"] in expected:
                return None
            raise self._unreachable(error) from error
        except BotoCoreError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ExportError:
        return ExportError(
            "bucket",
            f"the bucket {self._bucket} cannot be used",
            got=str(error)[:300],
            do="check its name and your credentials; the export goes on where it stopped",
        )
