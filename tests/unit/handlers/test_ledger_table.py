"""Every item of a ledger's table, every attribute of it: whatever single one somebody changes or removes, ``ledger verify`` finds it."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from nitrokit.cli.ledger_source import Trust, open_table
from nitrokit.cli.ledger_verify import verify_whole
from nitrokit.core.ledger import PASS, LedgerEntry, LedgerError, local_signer
from nitrokit.handlers.ledger_signing import sign_ledger
from nitrokit.handlers.ledger_store import Ledger

TIME = datetime(2026, 6, 7, tzinfo=UTC)
SIGNER = local_signer("arn:aws:dynamodb:eu-west-1:123456789012:table/ledger", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def ledger(dynamodb):
    """Six entries, five of them signed, by two checkpoints."""
    ledger = Ledger("ledger", dynamodb, sleep=lambda _: None)
    entries = [LedgerEntry(f"id{number}", TIME, "hello", f"i-{number % 2}", "test", PASS, document=b"d") for number in range(6)]
    for upto in ((0, 2), (2, 5)):
        ledger.append_all(entries[slice(*upto)])
        sign_ledger(ledger, SIGNER, TIME)
    ledger.append(entries[5])
    return ledger


class Held:
    """What DynamoDB would read from these items; writing goes on in moto."""

    def __init__(self, items):
        self.items = {item["key"]["S"]: item for item in items}

    def batch_get_item(self, *, RequestItems):
        ((table, request),) = RequestItems.items()
        wanted = [one["key"]["S"] for one in request["Keys"]]
        return {"Responses": {table: [self.items[key] for key in wanted if key in self.items]}}


def _verify(ledger):
    return verify_whole(open_table(ledger, Trust(SIGNER.key.public_key, named=True)), [])


def _others(value):
    """Every other value that an attribute is tried with."""
    ((kind, held),) = value.items()
    if kind == "N":
        return [{"N": str(number)} for number in (int(held) - 1, int(held) + 1, 0, 10**9) if 0 <= number != int(held)] + [{"S": held}]
    if kind == "S":
        return [{"S": held + "x"}, {"S": held[:-1] + ("0" if held[-1] != "0" else "1")}, {"B": held.encode()}]
    data = bytes(getattr(held, "value", held))
    return [
        *({"B": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]} for at in {0, len(data) // 2, len(data) - 1}),
        {"B": data[:-1]}, {"B": data + b"\x00"}, {"S": "x"},
    ]  # fmt: skip


def _changes(item):
    """(what is done, the item that takes its place)"""
    yield "removed", None
    for name, value in item.items():
        if name == "key":
            continue
        yield f"{name} removed", {one: held for one, held in item.items() if one != name}
        for other in _others(value):
            yield f"{name} = {other}", {**item, name: other}


def test_whatever_single_item_is_changed_or_removed_is_found(ledger, dynamodb):
    assert (_verify(ledger).verdict, _verify(ledger).unsigned) == ("VERIFIED", 1)
    held = Held(dynamodb.scan(TableName="ledger")["Items"])
    assert len(held.items) == 1 + 6 + 6 + 1 + 2, "head, entries, ids, the count of checkpoints, checkpoints"
    read, unfound = Ledger("ledger", held, sleep=lambda _: None), []
    for key, item in list(held.items.items()):
        for what, changed in _changes(item):
            held.items.pop(key, None)
            if changed is not None:
                held.items[key] = changed
            with suppress(LedgerError):
                _verify(read)
                unfound.append((key, what))
        held.items[key] = item
    assert unfound == []
    assert _verify(read).verdict == "VERIFIED"


@pytest.mark.parametrize("counted", ["head", "checkpoints"])
def test_an_end_that_was_set_back_to_what_it_was_is_found_by_what_stands_behind_it(dynamodb, counted):
    """A former head, or count of checkpoints, is consistent in itself: what it hides is still there, and the next entry would find its place taken."""
    ledger = Ledger("ledger", dynamodb, sleep=lambda _: None)
    ledger.append_all([LedgerEntry(f"id{number}", TIME, "hello", "i-0", "test", PASS) for number in range(3)])
    sign_ledger(ledger, SIGNER, TIME)
    former = {item["key"]["S"]: item for item in dynamodb.scan(TableName="ledger")["Items"]}
    ledger.append(LedgerEntry("hidden", TIME, "hello", "i-0", "test", PASS))
    if counted == "checkpoints":
        sign_ledger(ledger, SIGNER, TIME)
    now = {item["key"]["S"]: item for item in dynamodb.scan(TableName="ledger")["Items"]}
    assert _verify(ledger).verdict == "VERIFIED"
    (key,) = [key for key in former if now[key] != former[key] and (key == "head") == (counted == "head")]
    dynamodb.put_item(TableName="ledger", Item=former[key])
    with pytest.raises(LedgerError) as caught:
        _verify(ledger)
    assert (caught.value.code, "hidden" in str(caught.value.do)) == ("ledger/set-back", True)
    dynamodb.put_item(TableName="ledger", Item=now[key])
    assert _verify(ledger).verdict == "VERIFIED"


def test_a_ledger_that_grows_while_it_is_verified_holds(ledger):
    opened = open_table(ledger, Trust(SIGNER.key.public_key, named=True))
    ledger.append(LedgerEntry("late", TIME, "hello", "i-0", "test", PASS))
    sign_ledger(ledger, SIGNER, TIME)
    assert verify_whole(opened, []).opened.size == 6
