"""Finding an enclave's records: the table's index finds what reading everything finds, and nothing that it claims is believed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nitrokit.core.ledger import PASS, LedgerEntry, LedgerError, Sighting, walk
from nitrokit.handlers.ledger_index import TableIndex, WalkedIndex, sightings
from nitrokit.handlers.ledger_store import Ledger

DAY = datetime(2026, 6, 7, tzinfo=UTC)
HOSTS = ["i-1", "i-1!", "i-10", "~"]


def _entries():
    """Two enclaves on four hosts, once an hour; ids tell all."""
    return [
        LedgerEntry(f"{enclave}|{host}|{hour}", DAY + timedelta(hours=hour), enclave, host, "test", PASS)
        for hour in range(6)
        for host in HOSTS
        for enclave in ("hello", "other")
    ]


@pytest.fixture
def ledger(dynamodb):
    ledger = Ledger("ledger", dynamodb, sleep=lambda _: None)
    ledger.append_all(_entries())
    return ledger


@pytest.fixture(params=["table", "walked"])
def index(request, ledger):
    frontier = ledger.head().frontier
    return (
        TableIndex(ledger, frontier, "hello") if request.param == "table" else WalkedIndex(ledger, walk(ledger, frontier.size, []), "hello")
    )


def _at(hour):
    return DAY + timedelta(hours=hour)


def test_both_find_hosts_and_records_in_order(index):
    assert list(index.hosts()) == sorted(HOSTS)
    first, last = (int(_at(hour).timestamp() * 1000) for hour in (2, 4))
    for host in HOSTS:
        found = [record.entry.entry_id for record in index.records(host, first, last)]
        assert found == [f"hello|{host}|{hour}" for hour in (2, 3, 4)]
        assert [record.entry.entry_id for record in index.records(host, first, last, backwards=True)] == found[::-1]
        assert list(index.records(host, last, first)) == []
    assert list(index.records("nowhere", 0, last)) == []


def test_the_nearest_proven_records_on_both_sides_are_found(index):
    """Hours 1 and 4 have a document: the others between are told, those beyond are not read."""

    def sight(record):
        proof: Any = object()  # all that is asked of it is that it is there
        return Sighting(record.sequence, record.entry, document=proof if record.entry.time in (_at(1), _at(4)) else None)

    def hours(start, end):
        return [int(one.entry.entry_id.rpartition("|")[2]) for one in sightings(index, "i-10", start, end, sight)]

    assert hours(_at(2.5), _at(2.5)) == [2, 1, 3, 4]
    assert hours(_at(2), _at(3)) == [1, 2, 3, 4]
    assert hours(_at(5), _at(5)) == [4, 5]
    assert hours(DAY - timedelta(days=9), DAY - timedelta(days=9)) == [0, 1]


def test_a_search_for_proof_ends(index, monkeypatch):
    monkeypatch.setattr("nitrokit.handlers.ledger_index._MOST_UNPROVEN", 2)
    found = sightings(index, "i-1", _at(3), _at(3), lambda record: Sighting(record.sequence, record.entry))
    assert len(found) == 5


def _change(dynamodb, sequence, **attributes):
    item = dynamodb.get_item(TableName="ledger", Key={"key": {"S": f"entry/{sequence:012d}"}})["Item"]
    dynamodb.put_item(TableName="ledger", Item={**item, **attributes})


def test_what_the_index_claims_is_not_believed(ledger, dynamodb):
    def records():
        return list(TableIndex(ledger, ledger.head().frontier, "hello").records("i-1", 0, 10**14))

    assert len(records()) == 6
    foreign = dynamodb.get_item(TableName="ledger", Key={"key": {"S": "entry/000000000000"}})["Item"]
    for key, slug in (("entry/000000000001", "index"), ("id/forged", "index"), ("entry/1", "index")):
        before = dynamodb.get_item(TableName="ledger", Key={"key": {"S": key}}).get("Item")
        dynamodb.put_item(
            TableName="ledger", Item={**(before or {"key": {"S": key}}), "enclave": foreign["enclave"], "place": foreign["place"]}
        )
        with pytest.raises(LedgerError) as caught:
            records()
        assert caught.value.slug == slug, key
        dynamodb.put_item(TableName="ledger", Item=before) if before else dynamodb.delete_item(TableName="ledger", Key={"key": {"S": key}})
    _change(dynamodb, 0, record={"B": b"edited"})
    with pytest.raises(LedgerError) as caught:
        records()
    assert caught.value.slug == "inclusion"


def test_a_record_that_was_appended_meanwhile_is_left_out(ledger):
    before = ledger.head().frontier
    ledger.append(LedgerEntry("late", _at(5.5), "hello", "i-1", "test", PASS))
    assert len(list(TableIndex(ledger, before, "hello").records("i-1", 0, 10**14))) == 6
