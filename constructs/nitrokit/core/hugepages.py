"""Huge pages: what memory an enclave takes, and what the pool of a parent must hold. The standard library only, so that a parent can use it too."""

from __future__ import annotations

from collections.abc import Sequence

from nitrokit.errors import UsageError

MIB = 1 << 20
EIF_RATIO = 4
"""nitro-cli refuses less memory than four times the EIF (aws-nitro-enclaves-cli:src/enclave_proc/resource_manager.rs, E26)."""
MIN_MEMORY_MIB = 64
"""The driver's minimum (Linux drivers/virt/nitro_enclaves/ne_misc_dev.c)."""
PAGES_MIB = {"x86_64": (1024, 2), "aarch64": (1024, 32, 2)}
"""Huge pages of an architecture, largest first. arm64 has 64 KiB pages too, which the driver does not take (ne_misc_dev.c: regions are multiples of 2 MiB)."""


class SizingError(UsageError):
    """Enclaves that do not fit: their image, each other or the parent."""

    area = "sizing"


def enclave_memory(eif_size: int, wanted_mib: int | None = None) -> int:
    """MiB for one enclave of an EIF of ``eif_size`` bytes: what is wanted, or four times the EIF; in whole 2 MiB pages, at least 64. Raises SizingError when too little is wanted."""
    needed = max(-(-eif_size // MIB) * EIF_RATIO, MIN_MEMORY_MIB)
    if wanted_mib is not None and wanted_mib < needed:
        raise SizingError(
            "memory",
            "memory_mib is less than the image needs",
            got=wanted_mib,
            expected=f"at least {needed} ({EIF_RATIO} times the EIF)",
            do="raise it in enclave.toml, or leave it out",
        )
    return _rounded(wanted_mib or needed, 2)


def pool_memory(memories_mib: Sequence[int], arch: str) -> int:
    """MiB that a pool must hold so that enclaves of these sizes can start in any order.

    The allocator reserves the largest pages first (aws-nitro-enclaves-cli:bootstrap/nitro-enclaves-allocator), and an enclave that finds no small page left takes a whole large one
    (aws-nitro-enclaves-cli issue 602). So two enclaves of 768 MiB do not fit a pool of 1,536: the first uses up the 512 MiB of small pages and a 1 GiB page. Where the enclaves' parts below
    a page's size would add up to such a page, each is rounded up to whole pages.
    """
    pages = PAGES_MIB[arch]
    roundings = ([_rounded(memory, unit) for memory in memories_mib] for unit in sorted(pages))
    # In whole pages of the largest size nothing is left over, so one rounding always serves.
    return next(sum(sizes) for sizes in roundings if all(sum(size % page for size in sizes) < page for page in pages))


def _rounded(mib: int, unit: int) -> int:
    return -(-mib // unit) * unit
