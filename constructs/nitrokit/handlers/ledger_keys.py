"""What a ledger's table holds beside the records: what finds them again, and where they end. Exports have nothing of it, and proofs do not rest on it; who edits it hides records, or keeps
new ones out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from nitrokit.core.ledger import LedgerError, LedgerRecord, leaf_hash
from nitrokit.core.ledger.layout import ENCLAVE, PLACE, checkpoint_key, entry_key, id_key, place
from nitrokit.handlers.ledger_store import Head, Ledger

_AT_ONCE = 100


def check_keys(ledger: Ledger, head: Head, records: Iterator[LedgerRecord]) -> Iterator[LedgerRecord]:
    """Pass all records up to the head on, each one compared with what the table keeps of it: its enclave, host and time for the index, and the claim of its id. Raises LedgerError."""
    last = Head().last
    while batch := list(islice(records, _AT_ONCE)):
        indexed = ledger.table.get([entry_key(one.sequence) for one in batch], [ENCLAVE, PLACE])
        claimed = ledger.table.get([id_key(one.entry.entry_id) for one in batch])
        for one in batch:
            key, claim = entry_key(one.sequence), id_key(one.entry.entry_id)
            wanted = {ENCLAVE: {"S": one.entry.enclave}, PLACE: {"S": place(one.entry.host, one.entry.milliseconds)}}
            _compare(key, {name: indexed.get(key, {}).get(name) for name in wanted}, wanted)
            _compare(claim, claimed.get(claim, {}).get("sequence"), {"N": str(one.sequence)})
            yield one
        last = leaf_hash(batch[-1].encode())
    _compare("head", head.last.hex(), last.hex())


def check_ends(ledger: Ledger, size: int, checkpoints: int) -> None:
    """Nothing stands behind the ledger's end, or behind its last checkpoint, that the table does not count. Raises LedgerError."""
    _check_end(ledger, entry_key(size), size, lambda: ledger.head().frontier.size)
    _check_end(ledger, checkpoint_key(checkpoints), checkpoints, ledger.checkpoint_count)


def _check_end(ledger: Ledger, key: str, end: int, counted: Callable[[], int]) -> None:
    # Read in this order: what was written meanwhile is counted, too.
    if ledger.table.get([key]) and counted() <= end:
        raise LedgerError(
            "set-back",
            "the ledger's end was set back: there is something behind it",
            got=key,
            expected=f"nothing behind {end}",
            do="treat it as edited: entries or checkpoints were hidden",
        )


def _compare(key: str, got: object, expected: object) -> None:
    if got != expected:
        raise LedgerError(
            "keys", "what finds a record in the table is not the record's own", got=f"{key}: {got}", expected=str(expected),
            do="treat it as edited: records were hidden, or new ones kept out",
        )  # fmt: skip
