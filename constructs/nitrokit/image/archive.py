"""Looking into any ramdisk, whoever made it: gzip or xz or nothing around newc archives, one behind the other (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

For comparing only: what goes into an image of ours is read and written by ``cpio``, which takes less.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from nitrokit.image.errors import ImageError

_MAX = 4 << 30
_HEADER = 110
_TRAILER = b"TRAILER!!!"
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


@dataclass(frozen=True)
class Entry:
    """One file of an archive. ``data``: its content, or a link's target."""

    mode: int
    owner: tuple[int, int]
    device: tuple[int, int]
    data: memoryview

    @property
    def kind(self) -> str:
        """file, folder, link, or special (devices, pipes)."""
        return _KINDS.get(stat.S_IFMT(self.mode), "special")

    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def entries(ramdisk: bytes) -> dict[str, Entry]:
    """Path → entry; of several with one path the last, which is what Linux leaves. Raises ImageError for what cannot be looked into."""
    found: dict[str, Entry] = {}
    for path, entry in _walk(memoryview(_plain(ramdisk))):
        found[path] = entry
    return found


def _plain(data: bytes) -> bytes:
    """The archives without compression; a compressed one may follow a plain one."""
    try:
        if data[:2] == b"\x1f\x8b":
            return _limited(cast(IO[bytes], gzip.GzipFile(fileobj=io.BytesIO(data))))
        if data[:6] == b"\xfd7zXZ\0":
            return _limited(cast(IO[bytes], lzma.LZMAFile(io.BytesIO(data))))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ImageError("ramdisk", "the ramdisk is damaged", got=str(error)[:200]) from error
    return data


def _limited(stream: IO[bytes]) -> bytes:
    data = stream.read(_MAX + 1)
    if len(data) > _MAX:
        raise ImageError("ramdisk", "the ramdisk is too large to look into", expected=f"at most {_MAX} bytes unpacked")
    return data


def _walk(view: memoryview) -> Iterator[tuple[str, Entry]]:
    at = 0
    while at < len(view):
        if view[at] == 0:  # padding between archives
            at += 1
            continue
        head = bytes(view[at : at + _HEADER])
        if len(head) != _HEADER or head[:6] not in (b"070701", b"070702"):
            raise ImageError(
                "ramdisk", "the ramdisk is no archive that can be looked into", got=head[:6].hex(), expected="newc cpio, plain, gzip or xz"
            )
        try:
            fields = [int(head[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        except ValueError as error:
            raise ImageError("ramdisk", "malformed cpio header", got=head[:40].decode(errors="replace")) from error
        name = bytes(view[at + _HEADER : at + _HEADER + fields[11]]).rstrip(b"\0")
        start = (at + _HEADER + fields[11] + 3) // 4 * 4
        if start + fields[6] > len(view):
            raise ImageError("ramdisk", "the ramdisk ends in the middle of a file", got=name.decode(errors="replace")[:120])
        if name != _TRAILER:
            path = name.decode(errors="backslashreplace").removeprefix("./").strip("/") or "."
            yield path, Entry(fields[1], (fields[2], fields[3]), (fields[9], fields[10]), view[start : start + fields[6]])
        at = (start + fields[6] + 3) // 4 * 4
