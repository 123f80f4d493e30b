"""Finding one enclave's records: in a large table by its index, in an export by having read it all.

The table's index only points: each record that it finds is proven to be in the ledger's tree. One that it hides is missing, never wrong; an export that was read whole hides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from nitrokit.core.ledger import (
    Frontier,
    LedgerError,
    LedgerRecord,
    Log,
    Sighting,
    inclusion_proof,
    leaf_hash,
    parse_record,
    verify_inclusion,
)
from nitrokit.core.ledger.layout import ENCLAVE, INDEX, KEY, PLACE, entry_key, place
from nitrokit.core.ledger.proofs import Node
from nitrokit.handlers.ledger_store import Ledger

_MAX_TIME = 10**15 - 1
_LAST = "\x7f"
_MOST_UNPROVEN = 200


class EnclaveIndex(Protocol):
    """One enclave's records, by host and the entries' time in milliseconds."""

    def hosts(self) -> Iterator[str]:
        """The hosts on which it was checked, sorted."""

    def records(self, host: str, first: int, last: int, *, backwards: bool = False) -> Iterator[LedgerRecord]:
        """The records of a host from ``first`` to ``last``, in the order of their times. Raises LedgerError for one that is not the ledger's."""


def sightings(index: EnclaveIndex, host: str, start: datetime, end: datetime, sight: Callable[[LedgerRecord], Sighting]) -> list[Sighting]:
    """The records that matter for the time from ``start`` to ``end``: all in it, and on either side those up to the first that is proven, 200 at most."""
    first, last = _milliseconds(start), _milliseconds(end)
    before = _until_proven(index.records(host, 0, first - 1, backwards=True), sight)
    inside = [sight(record) for record in index.records(host, first, last)]
    return [*before, *inside, *_until_proven(index.records(host, last + 1, _MAX_TIME), sight)]


def _until_proven(records: Iterator[LedgerRecord], sight: Callable[[LedgerRecord], Sighting]) -> Iterator[Sighting]:
    for record in islice(records, _MOST_UNPROVEN):
        found = sight(record)
        yield found
        if found.document:
            return


class WalkedIndex:
    """Of a ledger that was read whole: ``records`` are those of ``walk``, and are read to their end here. Memory: some bytes for each record of the enclave."""

    def __init__(self, log: Log, records: Iterable[LedgerRecord], enclave: str) -> None:
        self._log = log
        self._places: dict[str, list[tuple[int, int]]] = {}
        for record in records:
            if record.entry.enclave == enclave:
                self._places.setdefault(record.entry.host, []).append((record.entry.milliseconds, record.sequence))

    def hosts(self) -> Iterator[str]:
        return iter(sorted(self._places))

    def records(self, host: str, first: int, last: int, *, backwards: bool = False) -> Iterator[LedgerRecord]:
        found = sorted((one for one in self._places.get(host, ()) if first <= one[0] <= last), reverse=backwards)
        for _, sequence in found:
            (data,) = self._log.records(sequence, sequence + 1)
            yield parse_record(data)


class TableIndex:
    """Of a table, up to ``frontier``: the tree in which each record is proven to be. A hash of the tree is read once. Raises LedgerUnavailableError, LedgerError."""

    def __init__(self, ledger: Ledger, frontier: Frontier, enclave: str) -> None:
        self._ledger, self._enclave = ledger, enclave
        self._size, self._root = frontier.size, frontier.root()
        self._nodes: dict[Node, bytes] = {}

    def hosts(self) -> Iterator[str]:
        """One query for each host, however many entries it has."""
        behind = " "
        while found := next(self._query(behind, _LAST, limit=1), None):
            host = found[0].rpartition(" ")[0]
            yield host
            behind = place(host, _MAX_TIME)

    def records(self, host: str, first: int, last: int, *, backwards: bool = False) -> Iterator[LedgerRecord]:
        if first > last:
            return
        for _, key in self._query(place(host, first), place(host, last), backwards=backwards):
            sequence = _sequence(key)
            if sequence < self._size:  # else it was appended meanwhile
                yield self._record(sequence, host)

    def _record(self, sequence: int, host: str) -> LedgerRecord:
        (data,) = self._ledger.records(sequence, sequence + 1)
        verify_inclusion(leaf_hash(data), sequence, self._size, inclusion_proof(sequence, self._size, self._read), self._root)
        record = parse_record(data)
        if (record.sequence, record.entry.enclave, record.entry.host) != (sequence, self._enclave, host):
            raise LedgerError(
                "index",
                "the table's index points to another record",
                got=f"record {sequence}",
                expected=f"{self._enclave} on {host}",
                do="ask an export",
            )
        return record

    def _read(self, nodes: Sequence[Node]) -> list[bytes]:
        missing = [node for node in nodes if node not in self._nodes]
        self._nodes.update(zip(missing, self._ledger.nodes(missing), strict=True))
        return [self._nodes[node] for node in nodes]

    def _query(self, first: str, last: str, *, backwards: bool = False, limit: int | None = None) -> Iterator[tuple[str, str]]:
        """(place, key) of the enclave's entries between two places."""
        arguments: dict[str, Any] = {
            "IndexName": INDEX,
            "KeyConditionExpression": "#enclave = :enclave AND #place BETWEEN :first AND :last",
            "ExpressionAttributeNames": {"#enclave": ENCLAVE, "#place": PLACE},
            "ExpressionAttributeValues": {":enclave": {"S": self._enclave}, ":first": {"S": first}, ":last": {"S": last}},
            "ScanIndexForward": not backwards,
            **({"Limit": limit} if limit else {}),
        }
        for item in self._ledger.table.query(**arguments):
            yield item[PLACE]["S"], item[KEY]["S"]


def _sequence(key: str) -> int:
    number = key.rpartition("/")[2]
    if not number.isdecimal() or entry_key(int(number)) != key:
        raise LedgerError("index", "the table's index points to something else than a record", got=key[:120], do="ask an export")
    return int(number)


def _milliseconds(time: datetime) -> int:
    return max(0, int(time.timestamp() * 1000))
