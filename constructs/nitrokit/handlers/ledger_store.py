"""The ledger in DynamoDB. An append is one transaction: it happens whole or not at all, and two writers at once lose nothing and count nothing twice.

The transaction puts the records at the next sequence numbers, claims each entry's id, and moves the head on, all on the condition that nobody else did. Who loses the race reads the
head again. A writer that dies does so before or after its transaction; run again, it finds its ids claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import boto3

from nitrokit.core.ledger import Frontier, LedgerEntry, LedgerError, LedgerRecord, leaf_hash
from nitrokit.core.ledger.layout import CHECKPOINTS, ENCLAVE, HEAD, KEY, PLACE, checkpoint_key, entry_key, id_key, place
from nitrokit.core.ledger.merkle import HASH_LENGTH
from nitrokit.core.ledger.proofs import Node, completed_by
from nitrokit.handlers.ledger_table import Item, Put, Table

MAX_BATCH = 49
"""Entries in one transaction: two items each and the head make 99 of the 100 that DynamoDB takes, and at most 2.5 of its 4 MB (Amazon DynamoDB API Reference, TransactWriteItems)."""
_READ_AHEAD = 100


@dataclass(frozen=True)
class Head:
    """Where the ledger ends: the tree's frontier, and the last record's leaf hash."""

    frontier: Frontier = field(default_factory=Frontier)
    last: bytes = bytes(HASH_LENGTH)


class Ledger:
    """A ledger in the DynamoDB table of this name. ``client``: boto3's DynamoDB client; default: of this environment. ``sleep``: waits between attempts, in seconds."""

    def __init__(self, table: str, client: Any = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.table = Table(table, client or boto3.client("dynamodb"), sleep)

    def append(self, entry: LedgerEntry) -> int:
        """Append an entry and return its sequence number. An entry whose id is in the ledger keeps its number, and its content.

        Raises LedgerUnavailableError; then trying again is safe.
        """
        return self.append_all([entry])[0]

    def append_all(self, entries: Sequence[LedgerEntry]) -> list[int]:
        """Append entries in their order, 49 in a transaction, and return their sequence numbers. Raises LedgerUnavailableError; what was written stays, and trying again is safe."""
        numbers: dict[str, int] = {}
        unique: dict[str, LedgerEntry] = {}
        for entry in entries:
            unique.setdefault(entry.entry_id, entry)
        ordered = list(unique.values())
        for start in range(0, len(ordered), MAX_BATCH):
            self._append(ordered[start : start + MAX_BATCH], numbers)
        return [numbers[entry.entry_id] for entry in entries]

    def _append(self, batch: Sequence[LedgerEntry], numbers: dict[str, int]) -> None:
        """One transaction, again and again until the ids are claimed, by us or by somebody else."""
        keys = {id_key(entry.entry_id): entry for entry in batch}
        for _ in self.table.attempts():
            found = self.table.get([HEAD, *keys])
            numbers.update((entry.entry_id, _number(found[key], "sequence", key)) for key, entry in keys.items() if key in found)
            missing = [entry for key, entry in keys.items() if key not in found]
            head = _head(found.get(HEAD))
            if not missing or self.table.put(_puts(head, missing)):
                numbers.update((entry.entry_id, number) for number, entry in enumerate(missing, head.frontier.size))
                return

    def head(self) -> Head:
        """Where the ledger ends now. Raises LedgerUnavailableError; LedgerError for a head that is none."""
        return _head(self.table.get([HEAD]).get(HEAD))

    def records(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the records ``start`` to ``end``. Raises LedgerUnavailableError; LedgerError where one is missing."""
        for first in range(start, end, _READ_AHEAD):
            keys = [entry_key(sequence) for sequence in range(first, min(first + _READ_AHEAD, end))]
            found = self.table.get(keys, ["record"])
            for key in keys:
                yield _binary(found.get(key), "record", key)

    def nodes(self, nodes: Sequence[Node]) -> list[bytes]:
        """Stored hashes, for the proofs of nitrokit.core.ledger. Raises LedgerUnavailableError; LedgerError where one is missing."""
        keys = [entry_key(completed_by(node)) for node in nodes]
        found = self.table.get(keys, ["hashes"])
        hashes = []
        for key, node in zip(keys, nodes, strict=True):
            stored, level, completing = _binary(found.get(key), "hashes", key), node[0], completed_by(node)
            # One hash for the leaf, and one for each tree that it makes whole: as many as its number ends in ones.
            if len(stored) != HASH_LENGTH * (~completing & (completing + 1)).bit_length():
                raise _gap(f"whole list of hashes in {key}")
            hashes.append(stored[level * HASH_LENGTH : (level + 1) * HASH_LENGTH])
        return hashes

    def checkpoint_count(self) -> int:
        """How many checkpoints there are."""
        item = self.table.get([CHECKPOINTS]).get(CHECKPOINTS)
        return 0 if item is None else _number(item, "count", CHECKPOINTS)

    def checkpoints(self, start: int, end: int) -> Iterator[str]:
        """The signed notes of the checkpoints ``start`` to ``end``, numbered from 0. Raises LedgerError where one is missing."""
        for first in range(start, end, _READ_AHEAD):
            keys = [checkpoint_key(number) for number in range(first, min(first + _READ_AHEAD, end))]
            found = self.table.get(keys)
            for key in keys:
                if "S" not in found.get(key, {}).get("note", {}):
                    raise _gap(key)
                yield str(found[key]["note"]["S"])

    def add_checkpoint(self, number: int, note: str) -> bool:
        """Make the note checkpoint ``number``. False where that is taken: somebody else signed at the same time."""
        count = {KEY: {"S": CHECKPOINTS}, "count": {"N": str(number + 1)}}
        return self.table.put([
            Put({KEY: {"S": checkpoint_key(number)}, "note": {"S": note}}),
            _moved(count, "count", number),
        ])  # fmt: skip


def _head(item: Item | None) -> Head:
    if item is None:
        return Head()
    peaks, last = _binary(item, "peaks", HEAD), _binary(item, "last", HEAD)
    return Head(
        Frontier(_number(item, "size", HEAD), tuple(peaks[at : at + HASH_LENGTH] for at in range(0, len(peaks), HASH_LENGTH))), last
    )


def _puts(head: Head, entries: Sequence[LedgerEntry]) -> list[Put]:
    """The transaction that appends entries behind ``head``."""
    puts, frontier, last = [], head.frontier, head.last
    for entry in entries:
        record, number = LedgerRecord(frontier.size, last, entry).encode(), str(frontier.size)
        frontier, hashes = frontier.append(leaf_hash(record))
        puts.append(Put({
            KEY: {"S": entry_key(int(number))}, "record": {"B": record}, "hashes": {"B": b"".join(hashes)},
            ENCLAVE: {"S": entry.enclave}, PLACE: {"S": place(entry.host, entry.milliseconds)},
        }))  # fmt: skip
        puts.append(Put({KEY: {"S": id_key(entry.entry_id)}, "sequence": {"N": number}}))
        last = hashes[0]
    item = {KEY: {"S": HEAD}, "size": {"N": str(frontier.size)}, "peaks": {"B": b"".join(frontier.peaks)}, "last": {"B": last}}
    return [*puts, _moved(item, "size", head.frontier.size)]


def _moved(item: Item, counter: str, before: int) -> Put:
    """A new value of a counting item, on the condition that it was not moved since it was read."""
    return Put(item, "#counter = :before", {"#counter": counter}, {":before": {"N": str(before)}}) if before else Put(item)


def _binary(item: Item | None, attribute: str, key: str) -> bytes:
    if item is None or "B" not in item.get(attribute, {}):
        raise _gap(key)
    value = item[attribute]["B"]
    return bytes(getattr(value, "value", value))


def _number(item: Item, attribute: str, key: str) -> int:
    text = str(item.get(attribute, {}).get("N", ""))
    if not text.isdecimal():
        raise _gap(f"number in {key}")
    return int(text)


def _gap(key: str) -> LedgerError:
    return LedgerError(
        "gap", "something is missing in the ledger", got=f"no {key}", expected="every record from 0 to the head", do="treat it as removed"
    )
