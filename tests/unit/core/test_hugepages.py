"""Pools that hold their enclaves, by a model of the allocator and of nitro-cli that knows nothing of the rule under test."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.hugepages import PAGES_MIB, SizingError, enclave_memory, pool_memory


def _reserve(pool, arch):
    """aws-nitro-enclaves-cli:bootstrap/nitro-enclaves-allocator, set_required_hugepages: largest first."""
    free = {}
    for page in PAGES_MIB[arch]:
        free[page], pool = divmod(pool, page)
    assert pool == 0
    return free


def _take(free, wanted):
    """nitro-cli 1.4: the largest that fit, then the smallest upward for the rest, then what is too much goes back. False: E27."""
    taken: list[int] = []
    for page in sorted(free, reverse=True):
        while free[page] and wanted - sum(taken) >= page:
            free[page] -= 1
            taken.append(page)
    for page in sorted(free):
        while free[page] and sum(taken) < wanted:
            free[page] -= 1
            taken.append(page)
    for page in sorted(taken):
        if sum(taken) - page >= wanted:
            taken.remove(page)
            free[page] += 1
    return sum(taken) >= wanted


memories = st.lists(st.integers(32, 3000).map(lambda pages: 2 * pages), min_size=1, max_size=4)


@given(memories, st.sampled_from(sorted(PAGES_MIB)))
def test_enclaves_start_in_any_order(sizes, arch):
    pool = pool_memory(sizes, arch)
    for order in permutations(sizes):
        free = _reserve(pool, arch)
        assert all(_take(free, size) for size in order), (pool, order)


@given(memories, st.sampled_from(sorted(PAGES_MIB)))
def test_little_is_wasted(sizes, arch):
    pool = pool_memory(sizes, arch)
    assert sum(sizes) <= pool < sum(sizes) + 1024 * len(sizes)
    assert pool_memory(sizes[:1], arch) == sizes[0]


def test_the_sum_alone_is_not_enough():
    """Which makes the property above a test: the naive pool of two enclaves of 768 MiB starts one."""
    free = _reserve(2 * 768, "x86_64")
    assert [_take(free, 768), _take(free, 768)] == [True, False]
    assert pool_memory([768, 768], "x86_64") == 2048


@pytest.mark.parametrize(
    ("size", "wanted", "memory"),
    [(1, None, 64), (16 << 20, None, 64), ((16 << 20) + 1, None, 68), (52 << 20, 300, 300), (52 << 20, 301, 302), (52 << 20, 208, 208)],
)
def test_memory_is_four_times_the_image_in_whole_pages(size, wanted, memory):
    assert enclave_memory(size, wanted) == memory


@pytest.mark.parametrize(("size", "wanted"), [(52 << 20, 206), (1, 63), (1, 0)])
def test_too_little_memory_is_refused(size, wanted):
    with pytest.raises(SizingError) as caught:
        enclave_memory(size, wanted)
    assert caught.value.code == "sizing/memory"
