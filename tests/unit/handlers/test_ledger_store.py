"""The ledger in DynamoDB (moto's): races, deaths at every call, lost answers, throttling, duplicate events. Nothing is lost, nothing counts twice."""

import json
import socket
import threading
from collections import Counter
from datetime import UTC, datetime

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError, SSLError

from nitrokit.core.ledger import (
    FAIL,
    LedgerEntry,
    LedgerError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    parse_record,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from nitrokit.handlers import ledger_store
from nitrokit.handlers.ledger_store import MAX_BATCH, Ledger
from nitrokit.handlers.ledger_table import LedgerUnavailableError

TIME = datetime(2026, 6, 7, tzinfo=UTC)


def _entry(name):
    return LedgerEntry(
        entry_id=str(name), time=TIME, enclave="hello", host="i-0123456789abcdef0", source="test", verdict=FAIL, reason=f"{name}"
    )


class Cloud:
    """moto's client, one call at a time (its transactions are not isolated from other threads, as DynamoDB's are), which fails as ``fault(number, name)`` says: an exception and when."""

    def __init__(self, client, fault=lambda number, name: None):
        self.client, self.fault, self.calls, self.refused, self.lock = client, fault, 0, 0, threading.Lock()

    def __getattr__(self, name):
        def call(**arguments):
            with self.lock:
                self.calls += 1
                fault = self.fault(self.calls, name)
                if fault and fault[1] == "before":
                    raise fault[0]
                try:
                    answer = getattr(self.client, name)(**arguments)
                except ClientError:
                    self.refused += 1
                    raise
                if fault:
                    raise fault[0]
                return answer

        return call


class Killed(Exception):
    """What ends a Lambda."""


def _ledger(dynamodb, **options):
    return Ledger("ledger", Cloud(dynamodb, **options), sleep=lambda _: None)


def _whole(ledger):
    """The ids in the ledger, after everything about it was checked."""
    head = ledger.head()
    size, root, last, ids = head.frontier.size, head.frontier.root(), bytes(32), []
    for sequence, data in enumerate(ledger.records(0, size)):
        record = parse_record(data)
        assert (record.sequence, record.previous) == (sequence, last)
        last = leaf_hash(data)
        verify_inclusion(last, sequence, size, inclusion_proof(sequence, size, ledger.nodes), root)
        ids.append(record.entry.entry_id)
    assert (root_of(size, ledger.nodes), head.last) == (root, last)
    assert max(Counter(ids).values(), default=0) <= 1
    return ids


def test_entries_are_appended_in_order_and_once(dynamodb):
    ledger = _ledger(dynamodb)
    entries = [_entry(number) for number in range(2 * MAX_BATCH + 3)]
    assert (ledger.append(entries[0]), ledger.append(entries[0])) == (0, 0)
    assert ledger.append_all(entries) == list(range(len(entries)))
    assert ledger.append_all([entries[7], _entry("new"), entries[7], _entry("new")]) == [7, 101, 7, 101]
    assert ledger.append_all([]) == []
    assert _whole(ledger) == [*map(str, range(101)), "new"]
    for old in range(103):
        proof = consistency_proof(old, 102, ledger.nodes) if old < 103 and old <= 102 else []
        verify_consistency(old, root_of(old, ledger.nodes), 102, ledger.head().frontier.root(), proof)


def test_a_second_entry_of_an_id_leaves_the_first_as_it_is(dynamodb):
    ledger = _ledger(dynamodb)
    ledger.append(_entry("one"))
    ledger.append(LedgerEntry(entry_id="one", time=TIME, enclave="other", host="i-1", source="test", verdict=FAIL))
    (record,) = ledger.records(0, 1)
    assert parse_record(record).entry == _entry("one")


def test_an_append_costs_one_read_and_one_transaction(dynamodb):
    ledger = _ledger(dynamodb)
    for number in range(20):
        ledger.append(_entry(number))
    cloud = Cloud(dynamodb)
    Ledger("ledger", cloud).append_all([_entry(f"more{number}") for number in range(MAX_BATCH)])
    assert cloud.calls == 2


def test_writers_that_race_lose_nothing_and_count_nothing_twice(dynamodb):
    """Eight duplicate runs with the same entries in different batches, and some of their own."""
    cloud = Cloud(dynamodb)
    numbers: dict[str, set[int]] = {}

    def run(writer):
        ledger = Ledger("ledger", cloud, sleep=lambda _: None)
        shared = [_entry(f"shared{number}") for number in range(12)]
        for start in range(0, 12, 1 + writer % 4):
            batch = [*shared[start : start + 1 + writer % 4], _entry(f"own{writer}-{start}")]
            for entry, number in zip(batch, ledger.append_all(batch), strict=True):
                numbers.setdefault(entry.entry_id, set()).add(number)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cloud.refused, "they did race"
    ids = _whole(_ledger(dynamodb))
    assert sorted(ids) == sorted(numbers)
    assert {name: {ids.index(name)} for name in ids} == numbers, "every run was told the same number"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_that_dies_at_any_call_is_resumed(dynamodb, when, monkeypatch):
    monkeypatch.setattr(ledger_store, "MAX_BATCH", 3)
    expected: list[str] = []
    for dies_at in range(1, 20):
        entries = [_entry(f"{when}{dies_at}-{number}") for number in range(5)]
        dying = _ledger(dynamodb, fault=lambda number, name, at=dies_at: (Killed(), when) if number == at else None)
        try:
            dying.append_all(entries)
            finished = True
        except Killed:
            finished = False
        numbers = _ledger(dynamodb).append_all(entries)
        expected += [entry.entry_id for entry in entries]
        assert numbers == list(range(len(expected) - len(entries), len(expected)))
        if finished:
            break
    assert dies_at == 5, "four calls, and a death at each"
    assert _whole(_ledger(dynamodb)) == expected


def _refusal(code, reasons=()):
    response = {"Error": {"Code": code, "Message": "m"}, "CancellationReasons": [{"Code": reason} for reason in reasons]}
    return ClientError(response, "TransactWriteItems")


@pytest.mark.parametrize(
    "error",
    [
        _refusal("ThrottlingException"),
        _refusal("ProvisionedThroughputExceededException"),
        _refusal("TransactionCanceledException", ["None", "ThrottlingError"]),
        _refusal("TransactionCanceledException", ["TransactionConflict", "None"]),
        ReadTimeoutError(endpoint_url="x"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_throttling_and_lost_answers_are_waited_out(dynamodb, error, when):
    """An answer that is lost after the write: the next attempt finds the ids claimed."""
    waits: list[float] = []
    cloud = Cloud(dynamodb, lambda number, name: (error, when) if number <= 6 else None)
    assert Ledger("ledger", cloud, sleep=waits.append).append_all([_entry(1), _entry(2)]) == [0, 1]
    assert _whole(_ledger(dynamodb)) == ["1", "2"]
    assert len(waits) >= 4 and all(0 <= wait <= 2 for wait in waits)


def test_keys_that_dynamodb_did_not_get_to_are_asked_for_again(dynamodb):
    ledger = _ledger(dynamodb)
    ledger.append_all([_entry(number) for number in range(10)])

    class Slow(Cloud):
        def __getattr__(self, name):
            call = super().__getattr__(name)

            def one_at_a_time(**arguments):
                (table, request), *_ = arguments["RequestItems"].items()
                answer = call(RequestItems={table: {**request, "Keys": request["Keys"][:3]}})
                rest = request["Keys"][3:]
                return {**answer, "UnprocessedKeys": {table: {**request, "Keys": rest}} if rest else {}}

            return one_at_a_time if name == "batch_get_item" else call

    slow = Ledger("ledger", Slow(dynamodb), sleep=lambda _: None)
    assert len(list(slow.records(0, 10))) == 10
    assert slow.nodes([(0, 0), (3, 0), (1, 4)]) == ledger.nodes([(0, 0), (3, 0), (1, 4)])


def _nowhere():
    """A client of an endpoint where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return boto3.client("dynamodb", "eu-west-1", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="x", aws_secret_access_key="x")


def test_what_no_attempt_can_mend_is_said(dynamodb):
    for client, slug in (
        (Cloud(dynamodb, lambda number, name: (_refusal("ThrottlingException"), "before")), "busy"),
        (Cloud(dynamodb, lambda number, name: (_refusal("AccessDeniedException"), "before")), "dynamodb"),
        (Cloud(dynamodb, lambda number, name: (_refusal("TransactionCanceledException", ["ValidationError"]), "before")), "dynamodb"),
        (Cloud(dynamodb, lambda number, name: (NoCredentialsError(), "before")), "credentials"),
        (Cloud(dynamodb, lambda number, name: (SSLError(endpoint_url="x", error="x"), "before")), "unreachable"),
        (_nowhere(), "unreachable"),
    ):
        with pytest.raises(LedgerUnavailableError) as caught:
            Ledger("ledger", client, sleep=lambda _: None).append(_entry(1))
        assert (caught.value.slug, caught.value.exit_code) == (slug, 3)
    with pytest.raises(LedgerUnavailableError):
        Ledger("nowhere", dynamodb, sleep=lambda _: None).append(_entry(1))


def test_what_is_missing_is_a_gap(dynamodb):
    ledger = _ledger(dynamodb)
    ledger.append_all([_entry(number) for number in range(5)])
    dynamodb.delete_item(TableName="ledger", Key={"key": {"S": "entry/000000000003"}})
    for call in (
        lambda: list(ledger.records(0, 5)),
        lambda: ledger.nodes([(2, 0)]),
        lambda: ledger.nodes([(5, 0)]),
        lambda: list(ledger.checkpoints(0, 1)),
    ):
        with pytest.raises(LedgerError) as caught:
            call()
        assert caught.value.slug == "gap"
    with pytest.raises(LedgerError):
        ledger.nodes([(1, 0), (2, 0)])
    dynamodb.put_item(
        TableName="ledger", Item={"key": {"S": "head"}, "size": {"N": "5"}, "peaks": {"B": b"x" * 32}, "last": {"B": b"x" * 32}}
    )
    with pytest.raises(LedgerError) as caught:
        ledger.append(_entry("on"))
    assert caught.value.slug == "bad-frontier"
    for key, call in (("head", ledger.head), ("id/on", lambda: ledger.append(_entry("on"))), ("checkpoints", ledger.checkpoint_count)):
        for item in ({}, {name: {"N": "1.5"} for name in ("size", "sequence", "count")}):
            dynamodb.put_item(TableName="ledger", Item={"key": {"S": key}, "peaks": {"B": b""}, "last": {"B": b""}, **item})
            with pytest.raises(LedgerError) as caught:
                call()
            assert caught.value.slug == "gap"
        dynamodb.delete_item(TableName="ledger", Key={"key": {"S": key}})


def test_one_of_two_who_sign_at_once_wins(dynamodb):
    ledger = _ledger(dynamodb)
    assert (ledger.checkpoint_count(), ledger.add_checkpoint(0, "a"), ledger.add_checkpoint(0, "b"), ledger.add_checkpoint(1, "c")) == (
        0,
        True,
        False,
        True,
    )
    assert (ledger.checkpoint_count(), [*ledger.checkpoints(0, 2)]) == (2, ["a", "c"])


def test_reads_are_consistent(dynamodb):
    """moto is always; DynamoDB only where it is asked to be, and an old head or a missing id would be believed."""
    asked = []
    dynamodb.meta.events.register("before-call.dynamodb.BatchGetItem", lambda params, **_: asked.append(json.loads(params["body"])))
    ledger = Ledger("ledger", dynamodb)
    ledger.append(_entry(1))
    list(ledger.records(0, 1))
    assert len(asked) == 2
    assert all(one["RequestItems"]["ledger"]["ConsistentRead"] is True for one in asked)
