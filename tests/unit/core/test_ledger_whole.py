"""A whole ledger, as files and as it is read: any edit, gap, fork, truncation, repetition or reordering is found."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrokit.core.ledger import (
    PASS,
    Frontier,
    LedgerEntry,
    LedgerError,
    LedgerRecord,
    TiledLedger,
    inclusion_proof,
    leaf_hash,
    local_signer,
    root_of,
    sign_checkpoint,
    verify_checkpoint,
    verify_inclusion,
    walk,
)
from nitrokit.core.ledger.proofs import completed_by
from nitrokit.core.ledger.tiles import Tile, checkpoint_path, join_bundle, split_bundle, tiles

TIME = datetime(2026, 6, 7, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
SIZES = (0, 1, 2, 3, 5, 8, 13)
COUNT = 13


def _entry(number):
    return LedgerEntry(f"id{number}", TIME, "hello", "i-1", "test", PASS)


class Memory:
    """A ledger in memory, stored as in its table."""

    def __init__(self, entries=()):
        self.data, self.hashes, self.frontier, self.frontiers = [], [], Frontier(), [Frontier()]
        for entry in entries:
            self.append(entry)

    def append(self, entry):
        previous = self.hashes[-1][0] if self.hashes else bytes(32)
        self.data.append(LedgerRecord(len(self.data), previous, entry).encode())
        self.frontier, hashes = self.frontier.append(leaf_hash(self.data[-1]))
        self.hashes.append(list(hashes))
        self.frontiers.append(self.frontier)

    def records(self, start, end):
        for sequence in range(start, end):
            if sequence >= len(self.data) or self.data[sequence] is None:
                raise LedgerError("gap", "missing")
            yield self.data[sequence]

    def nodes(self, nodes):
        return [self.hashes[completed_by(node)][node[0]] for node in nodes]

    def checkpoint(self, size):
        note = sign_checkpoint(size, self.frontiers[size].root(), TIME, local_signer("o", KEY))
        return verify_checkpoint(note, KEY.public_key())


def _ledger():
    return Memory(_entry(number) for number in range(COUNT))


CHECKPOINTS = [_ledger().checkpoint(size) for size in SIZES]


def _found(log, size, checkpoints=CHECKPOINTS):
    with pytest.raises(LedgerError) as caught:
        list(walk(log, size, checkpoints))
    return caught.value.slug


def test_a_ledger_that_was_only_appended_to_holds():
    ledger = _ledger()
    assert [record.sequence for record in walk(ledger, COUNT, CHECKPOINTS)] == list(range(COUNT))
    ledger.append(_entry("more"))
    assert len(list(walk(ledger, COUNT + 1, CHECKPOINTS))) == COUNT + 1
    assert list(walk(Memory(), 0, CHECKPOINTS[:1])) == []


@given(st.data())
@settings(max_examples=60)
def test_any_changed_byte_is_found(data):
    """With the rest as it was: the chain, the canonical encoding, or the last checkpoint finds it."""
    ledger = _ledger()
    at = data.draw(st.integers(0, COUNT - 1))
    changed = bytearray(ledger.data[at])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    ledger.data[at] = bytes(changed)
    assert _found(ledger, COUNT)


@given(st.data())
@settings(max_examples=60)
def test_a_history_that_is_written_anew_is_a_fork(data):
    """Consistent in itself, by somebody who can write everything but sign: an entry edited, removed, put in, or two exchanged."""
    entries = [_entry(number) for number in range(COUNT)]
    at = data.draw(st.integers(0, COUNT - 2))
    match data.draw(st.sampled_from(["edit", "remove", "insert", "exchange"])):
        case "edit":
            entries[at] = replace(entries[at], reason="edited")
        case "remove":
            entries[at : at + 1] = []
            entries.append(_entry("filler"))
        case "insert":
            entries.insert(at, _entry("inserted"))
        case _:
            entries[at], entries[at + 1] = entries[at + 1], entries[at]
    forged = Memory(entries)
    assert list(walk(forged, len(entries), [])), "nothing is found without a checkpoint: that is what they are for"
    assert _found(forged, len(entries)) == "fork"


def test_gaps_truncation_repetition_and_edited_hashes_are_found():
    ledger = _ledger()
    ledger.data[4] = None
    assert _found(ledger, COUNT) == "gap"
    for size in range(COUNT):
        assert _found(_ledger(), size) == "truncated"
    assert _found(Memory([*map(_entry, range(5)), _entry(3)]), 6, []) == "twice"
    moved = _ledger()
    moved.data[4], moved.data[5] = moved.data[5], moved.data[4]
    assert _found(moved, COUNT) == "chain"
    for sequence, level in ((12, 0), (7, 3), (7, 0), (3, 1)):
        edited = _ledger()
        edited.hashes[sequence][level] = bytes(32)
        assert _found(edited, COUNT) == "hash"
    empty = verify_checkpoint(sign_checkpoint(0, bytes(32), TIME, local_signer("o", KEY)), KEY.public_key())
    assert _found(_ledger(), COUNT, [empty]) == "fork"


def _export(ledger, sizes):
    """All files of an export that was brought up to these sizes, one after the other."""
    files, old = {}, 0
    for new in sizes:
        for tile in tiles(old, new, entries=True):
            files[tile.path] = join_bundle(ledger.data[tile.index * 256 : tile.index * 256 + tile.width])
        for tile in tiles(old, new, entries=False):
            nodes = [((tile.level or 0) * 8, tile.index * 256 + number) for number in range(tile.width)]
            files[tile.path] = b"".join(ledger.nodes(nodes))
        old = new
    return files


LARGE = Memory(_entry(number) for number in range(700))


@pytest.mark.parametrize("sizes", [(1,), (255,), (256,), (257,), (3, 300, 700), (256, 512, 700), (700,)])
def test_an_export_proves_what_the_ledger_proves(sizes):
    size = sizes[-1]
    ledger = TiledLedger(size, _export(LARGE, sizes).get)
    assert list(ledger.records(0, size)) == LARGE.data[:size]
    assert list(ledger.records(size // 2, size // 2 + 1)) == LARGE.data[size // 2 : size // 2 + 1]
    assert root_of(size, ledger.nodes) == LARGE.frontiers[size].root()
    for index in (0, size // 3, size - 1):
        verify_inclusion(LARGE.hashes[index][0], index, size, inclusion_proof(index, size, ledger.nodes), LARGE.frontiers[size].root())
    assert len(list(walk(ledger, size, [LARGE.checkpoint(size)]))) == size


def test_paths_and_widths_are_those_of_tlog_tiles():
    """The examples of C2SP tlog-tiles."""
    assert Tile(0, 1234067, 256).path == "tile/0/x001/x234/067"
    assert (Tile(None, 5, 256).path, Tile(2, 0, 1).path) == ("tile/entries/005", "tile/2/000.p/1")
    found = list(tiles(0, 70_000, entries=False))
    widths = {level: [tile.width for tile in found if tile.level == level] for level in (0, 1, 2, 3)}
    assert widths == {0: [256] * 273 + [112], 1: [256, 17], 2: [1], 3: []}
    assert [tile.path for tile in tiles(0, 256, entries=False)] == ["tile/0/000", "tile/1/000.p/1"]
    assert [tile.path for tile in tiles(0, 256, entries=True)] == ["tile/entries/000"]
    assert [tile.path for tile in tiles(256, 258, entries=False)] == ["tile/0/001.p/2"]
    assert list(tiles(5, 5, entries=False)) == [] and list(tiles(0, 0, entries=True)) == []
    assert checkpoint_path(3) == "checkpoints/000000000003"


def test_damaged_files_are_found():
    files = _export(LARGE, [700])
    for path, data, slug in (
        ("tile/0/000", None, "gap"), ("tile/0/000", files["tile/0/000"][:-1], "tile"), ("tile/0/002.p/188", b"", "tile"), ("tile/entries/001", files["tile/entries/001"][:-1], "bundle"),
        ("tile/entries/001", files["tile/entries/001"] + b"\0", "bundle"), ("tile/entries/001", None, "gap"), ("tile/1/000.p/2", bytes(64), "hash"), ("tile/0/001", bytes(8192), "hash"),
    ):  # fmt: skip
        changed = TiledLedger(700, {**files, path: data}.get)
        assert _found(changed, 700, []) == slug, path


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.binary(min_size=1, max_size=3))
def test_bundles_are_read_as_they_were_written(records, more):
    bundle = join_bundle(records)
    assert split_bundle(bundle, len(records)) == records
    for data, width in ((bundle + more, len(records)), (bundle, len(records) + 1), (bundle[:-1], len(records))):
        with pytest.raises(LedgerError):
            split_bundle(data, width)
