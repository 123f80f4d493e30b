"""Where an EIF's bytes come from: memory, or an open file that is read in pieces and never held whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from nitrokit.core.eif.format import EifError

Buffer = bytes | bytearray | memoryview
Readable = Buffer | BinaryIO
CHUNK = 1 << 20


class Source:
    """Bytes by offset. A file must be seekable and is left open; it must not change while it is read."""

    def __init__(self, data: Readable) -> None:
        if isinstance(data, bytes | bytearray | memoryview):
            self._view: memoryview | None = memoryview(data)
            self.size = len(self._view)
        else:
            self._view = None
            self._file = data
            self.size = data.seek(0, io.SEEK_END)

    def read(self, offset: int, size: int) -> Buffer:
        """Exactly ``size`` bytes, which the caller keeps small. Raises EifError where the file ends before."""
        if self._view is not None:
            found: Buffer = self._view[offset : offset + size]
        else:
            self._file.seek(offset)
            found = self._file.read(size)
        if len(found) != size:
            raise EifError("truncated", "the file ends while it is read", got=f"{len(found)} bytes at {offset}", expected=f"{size} bytes")
        return found

    def chunks(self, offset: int, size: int) -> Iterator[Buffer]:
        """``size`` bytes from ``offset`` on, in pieces of at most CHUNK. Raises EifError."""
        end = offset + size
        while offset < end:
            chunk = self.read(offset, min(CHUNK, end - offset))
            offset += len(chunk)
            yield chunk
