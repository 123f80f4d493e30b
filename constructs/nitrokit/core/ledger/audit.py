"""Reading a whole ledger and believing nothing: any edit, gap, fork or truncation is an error.

1. Every record is there, and is in its one canonical encoding.
2. Its sequence number is its place, and it names the record before it by hash: nothing was changed, removed, put in or moved since.
3. No entry's id occurs twice.
4. The stored hashes of the tree, from which proofs are made, are those of the records.
5. The tree of the first n records has the root of every checkpoint of size n, whosesoever: those of the ledger and those that the caller kept from former times.
6. No checkpoint is of a size that the ledger does not have.

1 to 4 need no trust and find mistakes. Whoever can write to the ledger can write another one that is as consistent: only 5 and 6, with signed checkpoints, find that. Entries behind the
last checkpoint are vouched for by nobody yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from nitrokit.core.ledger.checkpoint import UnverifiedCheckpoint
from nitrokit.core.ledger.entry import LedgerRecord, parse_record
from nitrokit.core.ledger.errors import LedgerError
from nitrokit.core.ledger.merkle import HASH_LENGTH, Frontier, leaf_hash
from nitrokit.core.ledger.proofs import Node

_AT_ONCE = 256


class Log(Protocol):
    """A ledger that can be read, wherever it lies."""

    def records(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the records ``start`` to ``end``. Raises LedgerError where one is missing."""

    def nodes(self, nodes: Sequence[Node]) -> list[bytes]:
        """Stored hashes of the tree. Raises LedgerError where one is missing."""


def walk(log: Log, size: int, checkpoints: Sequence[UnverifiedCheckpoint]) -> Iterator[LedgerRecord]:
    """All records, in order, checked as above. Raises LedgerError: what came before it is worth nothing then; nothing is proven until the end is reached."""
    roots: dict[int, list[UnverifiedCheckpoint]] = {}
    for checkpoint in checkpoints:
        roots.setdefault(checkpoint.size, []).append(checkpoint)
    if max(roots, default=0) > size:
        raise LedgerError(
            "truncated",
            "the ledger is shorter than it was",
            got=f"{size} entries",
            expected=f"at least {max(roots)}",
            do="treat it as cut off: entries that were there are gone",
        )
    frontier, last, seen = Frontier(), bytes(HASH_LENGTH), set[bytes]()
    _check_roots(frontier, roots)
    for start in range(0, size, _AT_ONCE):
        end = min(start + _AT_ONCE, size)
        completed: dict[Node, bytes] = {}
        for sequence, data in zip(range(start, end), log.records(start, end), strict=True):
            record = parse_record(data)
            _check_place(record, sequence, last)
            _check_id(record, seen)
            frontier, hashes = frontier.append(leaf_hash(data))
            completed.update(((level, ((sequence + 1) >> level) - 1), value) for level, value in enumerate(hashes))
            last = hashes[0]
            _check_roots(frontier, roots)
            yield record
        _check_nodes(log, completed)


def _check_place(record: LedgerRecord, sequence: int, last: bytes) -> None:
    if record.sequence != sequence or record.previous != last:
        raise LedgerError(
            "chain",
            "the chain of records is broken: one was changed, removed, put in or moved",
            got=f"record {record.sequence} behind {record.previous.hex()}",
            expected=f"record {sequence} behind {last.hex()}",
            do=f"records up to {sequence} were written later, or edited: compare them with an export",
        )


def _check_id(record: LedgerRecord, seen: set[bytes]) -> None:
    digest = hashlib.sha256(record.entry.entry_id.encode()).digest()[:16]
    if digest in seen:
        raise LedgerError(
            "twice",
            "an entry stands twice in the ledger",
            got=f"{record.entry.entry_id} again at {record.sequence}",
            expected="each id once",
        )
    seen.add(digest)


def _check_roots(frontier: Frontier, roots: dict[int, list[UnverifiedCheckpoint]]) -> None:
    for checkpoint in roots.get(frontier.size, ()):
        if checkpoint.root != frontier.root():
            raise LedgerError(
                "fork",
                "the ledger's first entries are not those of a checkpoint: one was changed, removed or put in, or the ledger has two histories",
                got=f"root {frontier.root().hex()} of {frontier.size} entries",
                expected=f"{checkpoint.root.hex()}, signed {checkpoint.time.isoformat()}",
                do="keep the checkpoint and the ledger: together they prove it",
            )


def _check_nodes(log: Log, completed: dict[Node, bytes]) -> None:
    nodes = list(completed)
    for node, stored in zip(nodes, log.nodes(nodes), strict=True):
        if stored != completed[node]:
            raise LedgerError(
                "hash",
                "a stored hash is not that of its records",
                got=f"level {node[0]}, index {node[1]}",
                do="treat it as edited: proofs made from it fail",
            )
