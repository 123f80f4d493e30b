"""Looking into any ramdisk, whoever made it: gzip, xz, zstd or nothing around newc archives, one behind the other (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

For comparing only: what goes into an image of ours is read and written by ``cpio``, which takes less.
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from nitrokit.image.cpio import header_fields
from nitrokit.image.decompression import uncompressed
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
    with uncompressed(io.BytesIO(ramdisk), "the ramdisk", most=_MAX) as contents:
        for path, entry in _walk(memoryview(contents.read_all())):
            found[path] = entry
    return found


def _walk(view: memoryview) -> Iterator[tuple[str, Entry]]:
    at = 0
    while at < len(view):
        if view[at] == 0:  # padding between archives
            at += 1
            continue
        head = bytes(view[at : at + _HEADER])
        if len(head) != _HEADER or head[:6] not in (b"070701", b"070702"):
            raise ImageError(
                "ramdisk",
                "the ramdisk is no archive that can be looked into",
                got=head[:6].hex(),
                expected="newc cpio, plain, gzip, xz or zstd",
            )
        fields = header_fields(head)
        name = bytes(view[at + _HEADER : at + _HEADER + fields[11]]).rstrip(b"\0")
        start = (at + _HEADER + fields[11] + 3) // 4 * 4
        if start + fields[6] > len(view):
            raise ImageError("ramdisk", "the ramdisk ends in the middle of a file", got=name.decode(errors="replace")[:120])
        if name != _TRAILER:
            path = name.decode(errors="backslashreplace").removeprefix("./").strip("/") or "."
            yield path, Entry(fields[1], (fields[2], fields[3]), (fields[9], fields[10]), view[start : start + fields[6]])
        at = (start + fields[6] + 3) // 4 * 4
