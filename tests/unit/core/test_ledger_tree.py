"""The ledger's tree: Certificate Transparency's published vectors, every size and index, and that nothing else is accepted."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.ledger import (
    EMPTY_ROOT,
    Frontier,
    LedgerError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from nitrokit.core.ledger.proofs import completed_by

# Inputs and roots as in certificate-transparency's reference tests of the Merkle tree (RFC 6962), which RFC 9162 kept.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (leaf, size) → audit path; (old size, new size) → consistency proof, of the same tests.
SHARED = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
FIRST_OF_EIGHT = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]
INCLUSION = {(0, 8): FIRST_OF_EIGHT, (5, 8): ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b", SHARED, ROOTS[4]]}
CONSISTENCY = {(1, 8): FIRST_OF_EIGHT, (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a", SHARED, ROOTS[4]]}


class Tree:
    """Stored as the ledger stores it: with each leaf the hashes that it completes."""

    def __init__(self, leaves):
        self.frontier, self.stored, self.frontiers = Frontier(), [], [Frontier()]
        for leaf in leaves:
            self.frontier, hashes = self.frontier.append(leaf_hash(leaf))
            self.stored.append(hashes)
            self.frontiers.append(self.frontier)

    def read(self, nodes):
        return [self.stored[completed_by(node)][node[0]] for node in nodes]


VECTOR = Tree([bytes.fromhex(text) for text in INPUTS])
LARGE = Tree([str(number).encode() for number in range(130)])


def _naive(leaves):
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + _naive(leaves[:split]) + _naive(leaves[split:])).digest()


def test_roots_are_those_of_certificate_transparency():
    assert EMPTY_ROOT.hex() == ROOTS[0]
    assert [frontier.root().hex() for frontier in VECTOR.frontiers] == ROOTS
    assert [root_of(size, VECTOR.read).hex() for size in range(9)] == ROOTS


def test_proofs_are_those_of_certificate_transparency():
    for (index, size), expected in INCLUSION.items():
        assert [step.hex() for step in inclusion_proof(index, size, VECTOR.read)] == expected
    for (old, new), expected in CONSISTENCY.items():
        assert [step.hex() for step in consistency_proof(old, new, VECTOR.read)] == expected


def test_every_size_has_the_root_that_the_definition_gives():
    leaves = [str(number).encode() for number in range(130)]
    assert [frontier.root() for frontier in LARGE.frontiers] == [_naive(leaves[:size]) for size in range(131)]


def test_every_leaf_is_proven_in_every_size():
    for size in range(1, 131):
        root = LARGE.frontiers[size].root()
        for index in range(size):
            verify_inclusion(LARGE.stored[index][0], index, size, inclusion_proof(index, size, LARGE.read), root)


def test_every_size_is_proven_to_continue_every_smaller_one():
    for new in range(131):
        for old in range(new + 1):
            proof = consistency_proof(old, new, LARGE.read)
            verify_consistency(old, LARGE.frontiers[old].root(), new, LARGE.frontiers[new].root(), proof)


def _refused(call, *slugs):
    with pytest.raises(LedgerError) as caught:
        call()
    assert caught.value.slug in slugs


@given(st.data())
def test_any_other_inclusion_proof_is_refused(data):
    size = data.draw(st.integers(1, 130))
    index = data.draw(st.integers(0, size - 1))
    proof, root, leaf = inclusion_proof(index, size, LARGE.read), LARGE.frontiers[size].root(), LARGE.stored[index][0]
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index)) if size > 1 else index + 1
    _refused(lambda: verify_inclusion(leaf, other, size, proof, root), "inclusion", "no-such-leaf")
    _refused(lambda: verify_inclusion(bytes(32), index, size, proof, root), "inclusion")
    _refused(lambda: verify_inclusion(leaf, index, size, proof, bytes(32)), "inclusion")
    _refused(lambda: verify_inclusion(leaf, index, size, [*proof, bytes(32)], root), "inclusion")
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        changed = bytearray(proof[at])
        changed[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
        _refused(lambda: verify_inclusion(leaf, index, size, [*proof[:at], bytes(changed), *proof[at + 1 :]], root), "inclusion")
        _refused(lambda: verify_inclusion(leaf, index, size, [*proof[:at], proof[at][:31], *proof[at + 1 :]], root), "inclusion")
        _refused(lambda: verify_inclusion(leaf, index, size, proof[:-1], root), "inclusion")


@given(st.data())
def test_a_changed_leaf_before_the_old_size_is_a_fork(data):
    new = data.draw(st.integers(1, 64))
    old = data.draw(st.integers(1, new))
    changed = data.draw(st.integers(0, old - 1))
    leaves = [str(number).encode() for number in range(new)]
    leaves[changed] = b"edited"
    forged = Tree(leaves)
    old_root, new_root = LARGE.frontiers[old].root(), forged.frontiers[new].root()
    _refused(lambda: verify_consistency(old, old_root, new, new_root, consistency_proof(old, new, forged.read)), "fork")
    _refused(lambda: verify_consistency(old, old_root, new, new_root, consistency_proof(old, new, LARGE.read)), "fork")


@given(st.data())
def test_any_other_consistency_proof_is_refused(data):
    new = data.draw(st.integers(2, 130))
    old = data.draw(st.integers(1, new - 1))
    proof, roots = consistency_proof(old, new, LARGE.read), [frontier.root() for frontier in LARGE.frontiers]
    at = data.draw(st.integers(0, len(proof) - 1))
    changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
    for wrong in (changed, proof[:-1], [*proof, bytes(32)], [*proof[:at], b"", *proof[at + 1 :]]):
        _refused(lambda wrong=wrong: verify_consistency(old, roots[old], new, roots[new], wrong), "fork")
    _refused(lambda: verify_consistency(old, roots[old - 1], new, roots[new], proof), "fork")


def test_a_shorter_ledger_is_cut_off():
    roots = [frontier.root() for frontier in LARGE.frontiers]
    _refused(lambda: verify_consistency(9, roots[9], 8, roots[8], []), "truncated")
    _refused(lambda: verify_consistency(8, roots[8], 8, roots[9], []), "fork")
    _refused(lambda: verify_consistency(0, roots[1], 8, roots[8], []), "fork")
    _refused(lambda: inclusion_proof(8, 8, LARGE.read), "no-such-leaf")


def test_proofs_need_few_hashes():
    asked = []

    def read(nodes):
        asked.append(len(nodes))
        return [bytes(32) for _ in nodes]

    for size in (1_000_000, 2**20 - 1, 2**20 + 1):
        inclusion_proof(size // 3, size, read)
        consistency_proof(size // 3, size, read)
        root_of(size, read)
    assert max(asked) <= 2 * 20


def test_a_frontier_that_is_none_is_refused():
    for size, peaks in ((1, ()), (3, (bytes(32),)), (1, (bytes(31),)), (-1, ())):
        _refused(lambda size=size, peaks=peaks: Frontier(size, peaks), "bad-frontier")
    assert node_hash(b"a" * 32, b"b" * 32) != leaf_hash(b"a" * 32 + b"b" * 32), "a node is never taken for a leaf"
