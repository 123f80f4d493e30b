"""Proofs: made from stored hashes, and verified with nothing but a root. Source: RFC 9162 sections 2.1.3 and 2.1.4.

A proof is the hashes of some ranges of leaves; which ones follows from the sizes, so that maker and verifier walk the same path. What is stored are the roots of perfect subtrees, ``Node``
(level, index): the one over the leaves index·2^level to (index+1)·2^level. A proof needs at most 2·log2(size) of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from nitrokit.core.ledger.errors import LedgerError
from nitrokit.core.ledger.merkle import EMPTY_ROOT, HASH_LENGTH, fold, node_hash

Node = tuple[int, int]
ReadNodes = Callable[[Sequence[Node]], Sequence[bytes]]
"""Stored hashes of nodes, in the order asked for."""
_Leaves = tuple[int, int]


def inclusion_proof(index: int, size: int, read: ReadNodes) -> list[bytes]:
    """The proof that leaf ``index`` is in the tree of ``size`` leaves. Raises LedgerError."""
    return _hashes(_inclusion_path(index, size), read)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Is the leaf hash number ``index`` in the tree of ``size`` leaves with this root? Raises LedgerError."""
    path, found = _inclusion_path(index, size), leaf
    if not _fits(path, proof):
        raise _bad_inclusion(index, size)
    for (start, _), step in zip(path, proof, strict=True):
        found = node_hash(step, found) if start < index else node_hash(found, step)
    if found != root:
        raise _bad_inclusion(index, size)


def consistency_proof(old_size: int, new_size: int, read: ReadNodes) -> list[bytes]:
    """The proof that the tree of ``new_size`` leaves begins with that of ``old_size``; empty for an old size of 0 or of the new one. Raises LedgerError."""
    return _hashes(_consistency_path(old_size, new_size), read)


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Does the new tree begin with the whole old one? Raises LedgerError: where it does not, history was rewritten."""
    path = _consistency_path(old_size, new_size)
    if not _fits(path, proof):
        raise _fork(old_size, new_size)
    if old_size == 0:
        old, new = EMPTY_ROOT, new_root
    else:
        # The path begins with the old tree's last perfect subtree, unless that is the whole old tree.
        inside = bool(path) and path[0][1] == old_size
        old = new = proof[0] if inside else old_root
        for (start, _), step in zip(path[inside:], proof[inside:], strict=True):
            if start < old_size:
                old = node_hash(step, old)
            new = node_hash(step, new) if start < old_size else node_hash(new, step)
    if old != old_root or new != new_root:
        raise _fork(old_size, new_size)


def root_of(size: int, read: ReadNodes) -> bytes:
    """The root of the tree of the first ``size`` leaves."""
    return subtree_root(0, size, read) if size else EMPTY_ROOT


def subtree_root(start: int, end: int, read: ReadNodes) -> bytes:
    """The root over the leaves ``start`` to ``end``, at least one; ``start`` is a multiple of a power of two that is not below their number."""
    return _hashes([(start, end)], read)[0]


def completed_by(node: Node) -> int:
    """The leaf that completes a node: whoever appends it knows the node's hash, and stores it with it."""
    level, index = node
    return ((index + 1) << level) - 1


def _inclusion_path(index: int, size: int) -> list[_Leaves]:
    """The siblings on the way from the leaf to the root."""
    if not 0 <= index < size:
        raise LedgerError("no-such-leaf", "the tree has no such leaf", got=f"{index} of {size}", expected="an index below the size")
    start, end, path = 0, size, list[_Leaves]()
    while end - start > 1:
        middle = start + _split(end - start)
        path.append((middle, end) if index < middle else (start, middle))
        start, end = (start, middle) if index < middle else (middle, end)
    return path[::-1]


def _consistency_path(old_size: int, new_size: int) -> list[_Leaves]:
    """The last perfect subtree of the old tree (unless it is the whole old tree), and the siblings on the way from it to the new root."""
    if not 0 <= old_size <= new_size:
        raise LedgerError(
            "truncated",
            "the ledger is shorter than it was",
            got=f"{new_size} entries",
            expected=f"at least {old_size}",
            do="treat it as cut off: entries that were there are gone",
        )
    start, end, path = 0, new_size, list[_Leaves]()
    while old_size and end != old_size:
        middle = start + _split(end - start)
        path.append((middle, end) if old_size <= middle else (start, middle))
        start, end = (start, middle) if old_size <= middle else (middle, end)
    return [*([(start, end)] if start else []), *path[::-1]]


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _fits(path: list[_Leaves], proof: Sequence[bytes]) -> bool:
    return len(proof) == len(path) and all(len(step) == HASH_LENGTH for step in proof)


def _hashes(path: list[_Leaves], read: ReadNodes) -> list[bytes]:
    """One read for all, then the root of each range."""
    covers = [_cover(*leaves) for leaves in path]
    found = iter(read([node for nodes in covers for node in nodes]))
    return [fold(list(islice(found, len(nodes)))) for nodes in covers]


def _cover(start: int, end: int) -> list[Node]:
    """The perfect subtrees over the leaves ``start`` to ``end``, the largest first. On a path ``start`` is a multiple of the largest's size."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def _bad_inclusion(index: int, size: int) -> LedgerError:
    return LedgerError(
        "inclusion",
        "the inclusion proof does not hold: this is not the entry that stands here in the tree",
        got=f"entry {index} of {size}",
        do="treat the entry as forged",
    )


def _fork(old_size: int, new_size: int) -> LedgerError:
    return LedgerError(
        "fork",
        "the ledger does not continue the one that was trusted: an entry before the old checkpoint was changed, removed or put in",
        got=f"{old_size} entries then, {new_size} now",
        expected="the old entries, unchanged, at the beginning",
        do="keep both checkpoints: together they prove the fork",
    )
