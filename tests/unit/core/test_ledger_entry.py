"""Entries: one value, one encoding; nothing else is read."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.ledger import FAIL, PASS, UNREACHABLE, LedgerEntry, LedgerError, LedgerRecord, parse_record, reference_sets_digest
from nitrokit.core.ledger.layout import checkpoint_key, entry_key, id_key, place
from nitrokit.core.measurements import Measurements

NOW = datetime(2026, 6, 7, 12, 0, 0, 123000, tzinfo=UTC)
LABEL = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
ENTRIES = st.builds(
    LedgerEntry,
    entry_id=LABEL,
    time=st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)),
    enclave=LABEL,
    host=LABEL,
    source=LABEL,
    verdict=st.sampled_from([PASS, FAIL, UNREACHABLE]),
    reason=st.none() | st.text(st.characters(), max_size=300),
    module_id=st.none() | LABEL,
    pcrs=st.dictionaries(st.integers(0, 31), st.binary(min_size=48, max_size=48), max_size=32),
    nonce=st.none() | st.binary(max_size=64),
    document=st.none() | st.binary(max_size=300),
    policy_sha256=st.none() | st.binary(min_size=32, max_size=32),
    image=st.none() | LABEL,
)


def _entry(**changes):
    return LedgerEntry(**{"entry_id": "id", "time": NOW, "enclave": "hello", "host": "i-1", "source": "test", "verdict": PASS, **changes})


def _encoded(**changes):
    value = cbor2.loads(LedgerRecord(7, bytes(32), _entry(pcrs={0: bytes(48), 24: bytes(48)}, document=b"d")).encode())
    entry = {**value["entry"], **changes.pop("entry", {})}
    return cbor2.dumps({**value, "entry": {key: one for key, one in entry.items() if one != "removed"}, **changes}, canonical=True)


@given(ENTRIES, st.integers(0, 2**63))
def test_what_is_written_is_read_back(entry, sequence):
    record = LedgerRecord(sequence, hashlib.sha256(b"before").digest(), entry)
    assert parse_record(record.encode()) == record
    assert record.encode() == record.encode()


@given(ENTRIES, st.data())
def test_no_two_encodings_are_read_as_one_record(entry, data):
    encoded = bytearray(LedgerRecord(0, bytes(32), entry).encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert parse_record(bytes(encoded)).encode() == encoded
    except LedgerError:
        pass


def test_the_order_of_keys_is_that_of_rfc_8949():
    """Section 4.2.1: bytewise by encoded key, which cbor2's own order must equal here."""
    value = cbor2.loads(LedgerRecord(0, bytes(32), _entry(pcrs={index: bytes(48) for index in range(32)})).encode())
    for one in (value, value["entry"], value["entry"]["pcrs"]):
        keys = [cbor2.dumps(key) for key in one]
        assert keys == sorted(keys)


def test_times_are_kept_in_milliseconds_of_utc():
    entry = _entry(time=datetime(2026, 6, 7, 14, 0, 0, 123999, tzinfo=timezone(timedelta(hours=2))))
    assert (entry.time, entry.time.tzinfo, entry.milliseconds) == (NOW, UTC, 1780833600123)


def test_what_a_host_may_send_never_keeps_an_entry_out():
    entry = _entry(verdict=FAIL, reason="\ud800" + "é" * 5000, document=bytes(32769))
    assert (len(entry.reason.encode()), entry.reason[:2]) == (4095, "?é")
    assert (entry.document, entry.document_sha256) == (None, hashlib.sha256(bytes(32769)).digest())
    whole = _entry(document=bytes(32768), reason="x" * 4096, pcrs={index: bytes(64) for index in range(32)}, nonce=bytes(1024))
    assert len(LedgerRecord(2**40, bytes(32), whole).encode()) < 1 << 16, "the largest fits into a bundle of tlog-tiles"
    assert parse_record(LedgerRecord(0, bytes(32), entry).encode()).entry == entry


@pytest.mark.parametrize(
    "changes",
    [
        {"entry_id": ""}, {"enclave": "a b"}, {"host": "é"}, {"source": "x" * 129}, {"module_id": ""}, {"image": 5}, {"verdict": "MAYBE"}, {"reason": 5}, {"time": datetime(2026, 1, 1)},
        {"time": datetime(1969, 1, 1, tzinfo=UTC)}, {"nonce": bytes(1025)}, {"nonce": "text"}, {"document": "text"}, {"document": b"d", "document_sha256": bytes(32)}, {"document_sha256": b"x"},
        {"policy_sha256": bytes(31)}, {"pcrs": {32: bytes(48)}}, {"pcrs": {0: bytes(47)}}, {"pcrs": {0: "x"}}, {"pcrs": {True: bytes(48)}}, {"pcrs": {index: bytes(48) for index in range(33)}},
    ],
)  # fmt: skip
def test_what_an_entry_cannot_hold_is_refused(changes):
    with pytest.raises(LedgerError) as caught:
        _entry(**changes)
    assert caught.value.slug == "field"


@pytest.mark.parametrize(
    "data",
    [
        cbor2.dumps(5), cbor2.dumps({"sequence": 0}), _encoded(sequence=-1), _encoded(sequence=True), _encoded(previous=bytes(31)), _encoded(previous="x"), _encoded(more=1),
        _encoded(entry={"version": 2}), _encoded(entry={"version": True}), _encoded(entry={"time": -1}), _encoded(entry={"time": 1 << 60}), _encoded(entry={"pcrs": []}),
        _encoded(entry={"nonce": "removed"}), _encoded(entry={"more": 1}), cbor2.dumps({"sequence": 0, "previous": bytes(32), "entry": 5}),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(data):
    with pytest.raises(LedgerError) as caught:
        parse_record(data)
    assert caught.value.slug == "field"


def test_another_encoding_of_the_same_value_is_refused():
    encoded = _encoded()
    assert parse_record(encoded).sequence == 7
    value = cbor2.loads(encoded)
    for other in (cbor2.dumps(dict(reversed(value.items()))), _encoded(entry={"reason": "x" * 4097}), b"\xbf" + encoded[1:] + b"\xff"):
        with pytest.raises(LedgerError) as caught:
            parse_record(other)
        assert caught.value.slug == "not-canonical"
    with pytest.raises(LedgerError) as caught:
        parse_record(encoded + b"\0")
    assert caught.value.slug == "trailing-bytes"


def test_reference_sets_are_named_whatever_their_order():
    one, two = Measurements(b"0" * 48, b"1" * 48, b"2" * 48), Measurements(b"0" * 48, b"1" * 48, b"3" * 48, b"8" * 48)
    assert reference_sets_digest([one, two]) == reference_sets_digest([two, one])
    assert len({reference_sets_digest(sets) for sets in ([], [one], [two], [one, two], [one, one])}) == 5


def test_places_sort_by_host_then_by_time():
    """What the index over a host's entries stands on."""
    hosts, times = ["i-1", "i-1!", "i-10", "i-1~", "!"], [0, 9, 10, 1780833600123, 253_402_300_799_999]
    places = [(host, time) for host in sorted(hosts) for time in times]
    assert sorted(places, key=lambda one: place(*one)) == places
    assert entry_key(9) < entry_key(10) < entry_key(10**11)
    assert len({entry_key(1), checkpoint_key(1), id_key("1"), id_key("entry/000000000001")}) == 4
