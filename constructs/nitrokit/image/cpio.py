"""The newc cpio format of initramfs (Linux Documentation/driver-api/early-userspace/buffer-format.rst): written deterministically, read strictly."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nitrokit.image.errors import ImageError

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_HEADER = 110
BLOCK = 512


@dataclass(frozen=True)
class Node:
    """A file, folder or symbolic link. ``mode``: with the type bits; ``data``: content, or the link's target. Owner is always root."""

    mode: int
    data: bytes = b""


def folder(mode: int = 0o755) -> Node:
    return Node(stat.S_IFDIR | mode)


def file(data: bytes, mode: int = 0o644) -> Node:
    return Node(stat.S_IFREG | mode, data)


def link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target.encode())


def write(tree: Mapping[str, Node]) -> bytes:
    """An archive of the tree (path without leading slash → node): sorted, times and owners zero, inodes counted; padded to 512 bytes, since archives follow each other without padding."""
    chunks: list[bytes] = []
    for inode, path in enumerate(sorted(tree), 1):
        node = tree[path]
        chunks.append(_entry(path, inode, node.mode, 2 if stat.S_ISDIR(node.mode) else 1, node.data))
    chunks.append(_entry(_TRAILER, 0, 0, 1, b""))
    archive = b"".join(chunks)
    return archive + bytes(-len(archive) % BLOCK)


def _entry(path: str, inode: int, mode: int, links: int, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def read(archive: bytes | memoryview) -> Iterator[tuple[str, Node]]:
    """The entries of one archive, up to its trailer. Raises ImageError for anything but files, folders and links with safe paths."""
    view, at = memoryview(archive), 0
    while True:
        header = bytes(view[at : at + _HEADER])
        if len(header) != _HEADER or header[:6] != _MAGIC:
            raise ImageError("cpio", "not a newc cpio archive", got=header[:6].hex(), expected=f"{_MAGIC.hex()} at offset {at}")
        try:
            fields = [int(header[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        except ValueError as error:
            raise ImageError("cpio", "malformed cpio header", got=header[:40].decode(errors="replace")) from error
        mode, size, name_size = fields[1], fields[6], fields[11]
        path = bytes(view[at + _HEADER : at + _HEADER + name_size]).rstrip(b"\0").decode(errors="surrogateescape")
        start = at + (_HEADER + name_size + 3) // 4 * 4
        if path == _TRAILER:
            return
        if start + size > len(view):
            raise ImageError("cpio", "the cpio archive ends in the middle of a file", got=path)
        check_path(path)
        if stat.S_IFMT(mode) not in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
            raise ImageError("device-node", "only files, folders and links go into an image", got=f"{path}, mode {mode:o}")
        yield path, Node(mode, bytes(view[start : start + size]))
        at = start + (size + 3) // 4 * 4


def check_path(path: str) -> None:
    """Refuse a path that leaves the tree. Raises ImageError."""
    if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ImageError("path-escape", "a path leaves the image", got=path, expected="a path below the image's root")
