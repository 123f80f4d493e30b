"""Compression of ramdisk 1, in a form that the kernel unpacks.

zstd alone, from a wheel that is pinned to one release with its own library: gzip's bytes depend on the zlib that a machine's Python was built with, and PCR0 and PCR2 on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

LEVEL, THREADS = 3, 2
"""The output depends on whether there are threads, not on how many (zstd manual, ZSTD_c_nbWorkers). The level is chosen by measurement: see bench/README.md."""


def compressed(chunks: Iterable[bytes], method: str) -> Iterator[bytes]:
    """``method``: none or zstd."""
    if method == "none":
        yield from chunks
        return
    import zstandard

    engine = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS, write_checksum=False).compressobj()
    for chunk in chunks:
        yield engine.compress(chunk)
    yield engine.flush()
