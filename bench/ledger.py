"""The ledger at a thousand and at a million entries: an append and a proof should cost what the logarithm does.

The store is the real one, over a table in memory; and over moto's DynamoDB, where most of the time is moto's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from math import log2
from pathlib import Path
from typing import Any

from nitrokit.core.ledger import (
    PASS,
    Frontier,
    LedgerEntry,
    LedgerRecord,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
    walk,
)  # fmt: skip
from nitrokit.core.ledger.layout import KEY
from nitrokit.core.ledger.proofs import Node
from nitrokit.handlers.ledger_store import MAX_BATCH, Ledger

TIME = datetime(2026, 6, 7, tzinfo=UTC)
DOCUMENT = Path(__file__).parents[1] / "tests" / "vectors" / "attestation" / "worldcoin_bedrock__tests-542a3239.bin"
ROUNDS = 200
Row = tuple[str, str, str]


class MemoryTable:
    """What the ledger needs of DynamoDB's client, with its conditions; of a record only the hashes are kept, or a million would not fit."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.read = self.written = self.calls = 0

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        ((table, request),) = RequestItems.items()
        keys = [key[KEY]["S"] for key in request["Keys"]]
        self.calls += 1
        self.read += len(keys)
        return {"Responses": {table: [{KEY: {"S": key}, **self.items[key]} for key in keys if key in self.items]}}

    def transact_write_items(self, TransactItems: list[dict[str, Any]]) -> dict[str, Any]:
        self.calls += 1
        self.written += len(TransactItems)
        for put in (item["Put"] for item in TransactItems):
            before = self.items.get(put["Item"][KEY]["S"])
            values = put.get("ExpressionAttributeValues")
            counter = put["ExpressionAttributeNames"].get("#counter")
            assert before is None if values is None else before[counter] == values[":before"], "nobody else writes here"
        for put in (item["Put"] for item in TransactItems):
            item = put["Item"]
            kept = {"hashes": item["hashes"]} if "hashes" in item else {name: value for name, value in item.items() if name != KEY}
            self.items[item[KEY]["S"]] = kept
        return {}


def _entry(number: int, document: bytes | None = None) -> LedgerEntry:
    host = f"i-{number % 10_000:017x}"
    return LedgerEntry(
        f"run-{number}", TIME, "hello", host, "bench", PASS, document=document, pcrs={index: bytes(48) for index in (0, 1, 2)}
    )


def main() -> None:
    """Print a table; with --json a file too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--moto", type=int, default=1_000, help="entries over moto's DynamoDB")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [*_growing(options.entries), *_whole(5_000), *_moto(options.moto)]
    for what, value, beside in rows:
        print(f"{what:<58} {value:>14}   {beside}")
    if options.json:
        options.json.write_text(
            json.dumps([{"what": what, "value": value, "beside": beside} for what, value, beside in rows], indent=2) + "\n"
        )


def _growing(entries: int) -> Iterator[Row]:
    """The same work at each size."""
    table = MemoryTable()
    ledger = Ledger("bench", table)
    small: dict[str, float] = {}
    size, first = 1_000, 0
    while size <= entries:
        for start in range(first, size - ROUNDS, MAX_BATCH):
            ledger.append_all([_entry(number) for number in range(start, min(start + MAX_BATCH, size - ROUNDS))])
        measured = _measure(ledger, table, size)
        for what, (seconds, items) in measured.items():
            growth = f"{seconds / small[what]:.2f} × that at 1,000 (log2: {log2(size) / log2(1_000):.2f} ×)" if what in small else ""
            small.setdefault(what, seconds)
            yield f"{what}, {size:,} entries", f"{seconds * 1e6:.0f} µs", f"{items:.1f} items; {growth}" if growth else f"{items:.1f} items"
        size, first = size * 10, size
    yield from _linear(ledger, entries)


def _measure(ledger: Ledger, table: MemoryTable, size: int) -> dict[str, tuple[float, float]]:
    """Median seconds, and mean items read and written, of each kind of work; ``ROUNDS`` appends bring the ledger to ``size``."""
    found = {"append one": _timed(table, lambda number: ledger.append(_entry(size - ROUNDS + number)))}
    frontier = ledger.head().frontier
    root = frontier.root()
    step = max(1, size // ROUNDS)
    assert frontier.size == size

    def prove(number: int) -> None:
        index = number * step
        leaf = ledger.nodes([(0, index)])[0]
        verify_inclusion(leaf, index, size, inclusion_proof(index, size, ledger.nodes), root)

    def continues(number: int) -> None:
        old = 1 + number * step % (size - 1)
        verify_consistency(old, root_of(old, ledger.nodes), size, root, consistency_proof(old, size, ledger.nodes))

    found["prove and verify an entry"] = _timed(table, prove)
    found["prove and verify that it continues an older one"] = _timed(table, continues)
    return found


def _timed(table: MemoryTable, call: Callable[[int], object]) -> tuple[float, float]:
    seconds, before = [], table.read + table.written
    for number in range(ROUNDS):
        start = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), (table.read + table.written - before) / ROUNDS


def _linear(ledger: Ledger, entries: int) -> Iterator[Row]:
    """What a proof would cost without stored hashes: the whole tree."""
    leaves = [
        leaf
        for start in range(0, entries, 1000)
        for leaf in ledger.nodes([(0, index) for index in range(start, min(start + 1000, entries))])
    ]
    start, frontier = time.perf_counter(), Frontier()
    for leaf in leaves:
        frontier, _ = frontier.append(leaf)
    seconds = time.perf_counter() - start
    assert frontier.root() == ledger.head().frontier.root()
    yield (
        f"the root of {entries:,} leaf hashes, computed anew",
        f"{seconds * 1e6:.0f} µs",
        "what storing hashes saves; it is the stored root",
    )


def _whole(entries: int) -> Iterator[Row]:
    """`ledger verify` without its reading from disk: every record parsed, hashed and compared."""
    records, nodes, last, frontier = [], dict[Node, bytes](), bytes(32), Frontier()
    document = DOCUMENT.read_bytes()
    for number in range(entries):
        records.append(LedgerRecord(number, last, _entry(number, document)).encode())
        frontier, hashes = frontier.append(leaf_hash(records[-1]))
        nodes.update(((level, ((number + 1) >> level) - 1), value) for level, value in enumerate(hashes))
        last = hashes[0]
    log = MemoryLog(records, nodes)
    start = time.perf_counter()
    assert sum(1 for _ in walk(log, entries, [])) == entries
    seconds = (time.perf_counter() - start) / entries
    start = time.perf_counter()
    for record in records:
        hashlib.sha256(record).digest()
    plain = (time.perf_counter() - start) / entries
    yield (
        f"verify a whole ledger, {len(records[0]):,} bytes a record",
        f"{seconds * 1e6:.0f} µs each",
        f"{seconds / plain:.0f} × one SHA-256 of it",
    )


class MemoryLog:
    """Records and hashes in memory."""

    def __init__(self, records: list[bytes], hashes: dict[Node, bytes]) -> None:
        self._records, self._hashes = records, hashes

    def records(self, start: int, end: int) -> Iterator[bytes]:
        return iter(self._records[start:end])

    def nodes(self, nodes: Sequence[Node]) -> list[bytes]:
        return [self._hashes[node] for node in nodes]


def _moto(entries: int) -> Iterator[Row]:
    with _moto_table() as client:
        ledger, document = Ledger("ledger", client), DOCUMENT.read_bytes()
        start = time.perf_counter()
        ledger.append_all([_entry(number, document) for number in range(entries)])
        seconds = time.perf_counter() - start
        size, root = entries, ledger.head().frontier.root()
        proofs = []
        for index in range(0, size, max(1, size // 20)):
            begin = time.perf_counter()
            verify_inclusion(ledger.nodes([(0, index)])[0], index, size, inclusion_proof(index, size, ledger.nodes), root)
            proofs.append(time.perf_counter() - begin)
    yield (
        f"moto: append {entries:,} entries with real documents",
        f"{seconds / entries * 1e6:.0f} µs each",
        f"{MAX_BATCH} in a transaction; moto copies its table for each",
    )
    yield f"moto: prove and verify an entry of {entries:,}", f"{statistics.median(proofs) * 1e6:.0f} µs", ""


@contextmanager
def _moto_table() -> Iterator[Any]:
    import boto3
    from moto import mock_aws

    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="eu-west-1")
        client.create_table(
            TableName="ledger", KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}], BillingMode="PAY_PER_REQUEST",
        )  # fmt: skip
        yield client


if __name__ == "__main__":
    sys.exit(main())
