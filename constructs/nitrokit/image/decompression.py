"""Archives without their compression, read in pieces; what unpacks to far more than it is gets refused by name."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol, cast

from nitrokit.image.content import CHUNK
from nitrokit.image.errors import ImageError

MAX_UNPACKED = 16 << 30
_RATIO, _FREE = 200, 256 << 20
_PIECE = 4096  # zstd makes at most 128 KiB of four bytes (RFC 8878, RLE blocks): memory stays bounded
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 1 << 27  # what `zstd --long` takes


class _Engine(Protocol):
    """The common shape of zlib's, lzma's and zstandard's decompressors: one stream each."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Unpacked:
    """Compressed streams behind each other (gzip members, xz streams, zstd frames) as one. A cut-off one raises EOFError: zstandard's own reader takes it for whole."""

    def __init__(self, file: IO[bytes], make: Callable[[], _Engine]) -> None:
        self._file = file
        self._make = make
        self._engine: _Engine | None = None
        self._ready = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and (data := self._file.read(_PIECE)):
            self._feed(data)
        if not self._ready and self._engine is not None:
            raise EOFError("it ends in the middle")
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def _feed(self, data: bytes) -> None:
        while self._engine is not None or (data := data.lstrip(b"\0")):  # zeros may stand between streams (xz file format 2.2)
            self._engine = self._engine or self._make()
            self._ready += self._engine.decompress(data)
            if not self._engine.eof:
                return
            data, self._engine = self._engine.unused_data, None


class Contents:
    """A stream that knows how much was read of it, and raises ImageError where that is more than ``limit``."""

    def __init__(self, stream: IO[bytes], name: str, limit: int) -> None:
        self._stream = stream
        self._name = name
        self._limit = limit
        self.size = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.size += len(data)
        if self.size > self._limit:
            raise ImageError(
                "bomb",
                f"{self._name} unpacks to too much, or to far more than it is",
                got=f"more than {self._limit:,} bytes",
                expected=f"at most {_RATIO} times its size where it is compressed",
                do="if this is meant, give it without compression",
            )
        return data

    def read_all(self) -> bytes:
        return b"".join(iter(lambda: self.read(CHUNK), b""))


@contextmanager
def uncompressed(file: IO[bytes], name: str, *, most: int = MAX_UNPACKED) -> Iterator[Contents]:
    """The contents of a seekable file, ``most`` bytes; gzip, xz and zstd are told by their first bytes, since media types and file names have been wrong. Raises ImageError, while it is read too."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    make = _engine(file.read(6))
    file.seek(0)
    if make is None:
        yield Contents(file, name, most)
        return
    try:
        yield Contents(cast(IO[bytes], _Unpacked(file, make)), name, min(most, _FREE + _RATIO * size))
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise ImageError("damaged", f"{name} is damaged", got=str(error)[:200] or "lzma") from error


def _engine(head: bytes) -> Callable[[], _Engine] | None:
    if head[:2] == b"\x1f\x8b":
        return lambda: zlib.decompressobj(wbits=31)
    if head == b"\xfd7zXZ\0":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return _Zstd
    return None


class _Zstd:
    """zstandard's, with lzma's error: its own can only be named once it is imported, which few builds need."""

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, /) -> bytes:
        try:
            return self._engine.decompress(data)
        except self._error as error:
            raise lzma.LZMAError(str(error)) from error
