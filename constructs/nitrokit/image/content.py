"""File contents that are not held in memory: parts of a file on disk, read when they are written into the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nitrokit.image.errors import ImageError

CHUNK = 1 << 20


@dataclass(frozen=True)
class Stored:
    """``size`` bytes of the file ``path`` from ``offset`` on."""

    path: Path
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Raises ImageError when the file has changed meanwhile."""
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left:
                chunk = file.read(min(left, CHUNK))
                if not chunk:
                    raise ImageError("changed", "a file became shorter while the image was built", got=str(self.path))
                left -= len(chunk)
                yield chunk


class Spool:
    """Takes contents one after the other into one temporary file."""

    def __init__(self, path: Path, *, limit: int) -> None:
        self._path = path
        self._file = path.open("wb")
        self._at = 0
        self._limit = limit

    def take(self, source: IO[bytes], name: str) -> Stored:
        """What ``source`` has left. Raises ImageError where all of it together is too much."""
        start = self._at
        while chunk := source.read(CHUNK):
            self._at += len(chunk)
            if self._at > self._limit:
                raise ImageError(
                    "bomb", "the root file system is too large", got=name, expected=f"at most {self._limit >> 30} GiB unpacked"
                )
            self._file.write(chunk)
        return Stored(self._path, start, self._at - start)

    def flush(self) -> None:
        """Before anything of it is read."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
