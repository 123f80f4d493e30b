"""Compression of ramdisk 1, in a form that the kernel unpacks.

zstd alone, from a wheel that is pinned to one release with its own library: gzip's bytes depend on the zlib that a machine's Python was built with, and PCR0 and PCR2 on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nitrokit.errors import EnvironmentProblem
from nitrokit.image.content import CHUNK

LIBRARY = (1, 5, 7)
LEVEL, THREADS, JOB = 3, 2, 4 << 20
"""The output depends on the size of a job and on whether there are threads, not on how many (zstd manual, ZSTD_c_nbWorkers). The level is chosen by measurement: see bench/README.md."""


class CompressionProblem(EnvironmentProblem):
    """What compresses is not what the measurements are locked with."""

    area = "image"


def compressed(chunks: Iterable[bytes], method: str) -> Iterator[bytes | memoryview]:
    """``method``: none or zstd. Raises CompressionProblem."""
    if method == "none":
        yield from chunks
        return
    import zstandard

    if zstandard.ZSTD_VERSION != LIBRARY:
        raise CompressionProblem(
            "zstd",
            "another version of the zstd library is here: its bytes, and PCR0 and PCR2, may be others",
            got=".".join(map(str, zstandard.ZSTD_VERSION)),
            expected=".".join(map(str, LIBRARY)),
            do="install the wheel that nitrokit[cli] pins, not a distribution's zstandard",
        )
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, threads=THREADS, job_size=JOB, write_checksum=False)
    engine = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for chunk in chunks:
        yield from _pieces(engine.compress(chunk))
    yield from _pieces(engine.flush())


def _pieces(data: bytes) -> Iterator[memoryview]:
    """Some come in one go of many MB, and several pieces wait for hashing at a time."""
    view = memoryview(data)
    yield from (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))
