"""An exported ledger as files. Source: C2SP tlog-tiles: hashes in tiles of 256 (``tile/<level>/<index>``), entries in bundles of 256 (``tile/entries/<index>``), both immutable; ``checkpoint``.

Beside what tlog-tiles names: every checkpoint by its number, and the public key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nitrokit.core.ledger.errors import LedgerError
from nitrokit.core.ledger.merkle import HASH_LENGTH, fold
from nitrokit.core.ledger.proofs import Node

CHECKPOINT, PUBLIC_KEY = "checkpoint", "public_key.pem"
HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_RECORD = (1 << 16) - 1
_LENGTH = 2


@dataclass(frozen=True)
class Tile:
    """One file: hashes of tree level ``level``·8, or, with level None, entries; ``width`` of them, below 256 where the tile is partial."""

    level: int | None
    index: int
    width: int

    @property
    def path(self) -> str:
        """Relative, in tlog-tiles' form: three digits a folder, so that no folder holds more than a thousand."""
        digits = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            digits.insert(0, f"x{rest % 1000:03d}")
            rest //= 1000
        kind = "entries" if self.level is None else str(self.level)
        return f"tile/{kind}/{'/'.join(digits)}" + (f".p/{self.width}" if self.width < WIDTH else "")


def checkpoint_path(number: int) -> str:
    """Where checkpoint ``number`` of an export lies."""
    return f"checkpoints/{number:012d}"


def tiles(old_size: int, new_size: int, *, entries: bool) -> Iterator[Tile]:
    """The tiles that a tree of ``new_size`` leaves has and one of ``old_size`` has not; with ``entries`` the bundles, else the hashes."""
    level = 0
    while new_size >> (HEIGHT * level):
        before, now = old_size >> (HEIGHT * level), new_size >> (HEIGHT * level)
        if before != now:
            for index in range(before // WIDTH, now // WIDTH):
                yield Tile(None if entries else level, index, WIDTH)
            if now % WIDTH:
                yield Tile(None if entries else level, now // WIDTH, now % WIDTH)
        if entries:
            return
        level += 1


def join_bundle(records: Sequence[bytes]) -> bytes:
    """A bundle: each record behind its length in two bytes, big endian."""
    return b"".join(len(record).to_bytes(_LENGTH, "big") + record for record in records)


def split_bundle(data: bytes, width: int) -> list[bytes]:
    """The ``width`` records of a bundle. Raises LedgerError."""
    records: list[bytes] = []
    at = 0
    while at + _LENGTH <= len(data) and len(records) < width:
        start = at + _LENGTH
        at = start + int.from_bytes(data[at:start], "big")
        records.append(data[start:at])
    if at != len(data) or len(records) != width:
        raise LedgerError(
            "bundle", "a bundle of entries is damaged", got=f"{len(data)} bytes", expected=f"{width} entries, and nothing behind them"
        )
    return records


@dataclass(frozen=True)
class TiledLedger:
    """An exported ledger of ``size`` entries. ``read``: path → the file's bytes, None where there is no such file. What it gives is as trustworthy as the files: verify it."""

    size: int
    read: Callable[[str], bytes | None]

    def records(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the records ``start`` to ``end``. Raises LedgerError where one is missing."""
        for index in range(start // WIDTH, -(-end // WIDTH)):
            first = index * WIDTH
            width = min(WIDTH, self.size - first)
            bundle = split_bundle(self._file(Tile(None, index, width)), width)
            yield from bundle[max(start - first, 0) : end - first]

    def nodes(self, nodes: Sequence[Node]) -> list[bytes]:
        """Hashes of the tree, for its proofs. Raises LedgerError where one is missing."""
        held: dict[Tile, bytes] = {}
        return [self._node(node, held) for node in nodes]

    def _node(self, node: Node, held: dict[Tile, bytes]) -> bytes:
        """A node inside a tile is made of the hashes below it."""
        level, height = divmod(node[0], HEIGHT)
        first = node[1] << height
        tile = Tile(level, first // WIDTH, min(WIDTH, (self.size >> (HEIGHT * level)) - first // WIDTH * WIDTH))
        if tile not in held:
            held[tile] = self._file(tile)
        at = first % WIDTH * HASH_LENGTH
        found = held[tile][at : at + (HASH_LENGTH << height)]
        if len(held[tile]) != tile.width * HASH_LENGTH or len(found) != HASH_LENGTH << height:
            raise LedgerError(
                "tile", "a tile of hashes is damaged", got=f"{tile.path}: {len(held[tile])} bytes", expected=f"{tile.width} hashes"
            )
        hashes = [found[start : start + HASH_LENGTH] for start in range(0, len(found), HASH_LENGTH)]
        while len(hashes) > 1:
            hashes = [fold(hashes[pair : pair + 2]) for pair in range(0, len(hashes), 2)]
        return hashes[0]

    def _file(self, tile: Tile) -> bytes:
        data = self.read(tile.path)
        if data is None:
            raise LedgerError(
                "gap",
                "something is missing in the ledger",
                got=f"no {tile.path}",
                expected="every tile of its size",
                do="treat it as removed",
            )
        return data
