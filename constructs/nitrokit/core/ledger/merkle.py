"""The ledger's tree. Source: RFC 9162 section 2.1 (hashes as in RFC 6962): SHA-256, 0x00 before a leaf, 0x01 before two children."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from nitrokit.core.ledger.errors import LedgerError

HASH_LENGTH = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf; 32 bytes."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node with these two children; 32 bytes."""
    return hashlib.sha256(b"\1" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root above perfect subtrees that stand side by side, the largest first; at least one."""
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes))


@dataclass(frozen=True)
class Frontier:
    """A tree of ``size`` leaves by its peaks: the roots of the perfect subtrees that it consists of, the largest first, one for each bit of ``size`` that is set.

    All that appending needs to know: at most 20 hashes for a million leaves. Raises LedgerError where size and peaks do not belong together.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.peaks) != self.size.bit_count() or any(len(peak) != HASH_LENGTH for peak in self.peaks):
            raise LedgerError(
                "bad-frontier",
                "not the frontier of a tree",
                got=f"size {self.size}, {len(self.peaks)} peaks",
                expected="a hash for each bit of the size",
            )

    def append(self, leaf: bytes) -> tuple[Frontier, tuple[bytes, ...]]:
        """The tree with one more leaf hash, and the hashes that are complete with it: the leaf's own, then that of each perfect subtree which it closes."""
        peaks, completed, size = list(self.peaks), [leaf], self.size
        while size & 1:
            completed.append(node_hash(peaks.pop(), completed[-1]))
            size >>= 1
        return Frontier(self.size + 1, (*peaks, completed[-1])), tuple(completed)

    def root(self) -> bytes:
        """The tree's root hash (MTH of RFC 9162)."""
        return fold(self.peaks) if self.peaks else EMPTY_ROOT
