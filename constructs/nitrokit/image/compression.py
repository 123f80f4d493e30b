"""Compression of ramdisk 1, in a form that the kernel unpacks.

zstd alone, from a wheel that is pinned to one release with its own library: gzip's bytes depend on the zlib that a machine's Python was built with, and PCR0 and PCR2 on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nitrokit.image.content import CHUNK

LEVEL, THREADS, JOB = 3, 2, 4 << 20
"""The output depends on the size of a job and on whether there are threads, not on how many (zstd manual, ZSTD_c_nbWorkers). The level is chosen by measurement: see bench/README.md."""


def compressed(chunks: Iterable[bytes], method: str) -> Iterator[bytes | memoryview]:
    """``method``: none or zstd."""
    if method == "none":
        yield from chunks
        return
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, threads=THREADS, job_size=JOB, write_checksum=False)
    engine = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for chunk in chunks:
        yield from _pieces(engine.compress(chunk))
    yield from _pieces(engine.flush())


def _pieces(data: bytes) -> Iterator[memoryview]:
    """Some come in one go of many MB, and several pieces wait for hashing at a time."""
    view = memoryview(data)
    yield from (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))
