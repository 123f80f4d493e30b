"""The newc cpio format of initramfs (Linux Documentation/driver-api/early-userspace/buffer-format.rst): written deterministically, read strictly."""

from __future__ import annotations

import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nitrokit.image.content import Stored
from nitrokit.image.errors import ImageError

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_HEADER = 110
_PATH_MAX, _NAME_MAX = 4096, 255
BLOCK = 512


@dataclass(frozen=True)
class Node:
    """A file, folder or symbolic link. ``mode``: with the type bits; ``source``: content, or the link's target; several paths with one node are hard links."""

    mode: int
    source: bytes | Stored = b""
    uid: int = 0
    gid: int = 0

    @property
    def data(self) -> bytes:
        """The whole content, in memory."""
        return self.source if isinstance(self.source, bytes) else b"".join(self.source.chunks())

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.size

    def chunks(self) -> Iterator[bytes]:
        return iter((self.source,)) if isinstance(self.source, bytes) else self.source.chunks()


def folder(mode: int = 0o755) -> Node:
    return Node(stat.S_IFDIR | mode)


def file(data: bytes | Stored, mode: int = 0o644) -> Node:
    return Node(stat.S_IFREG | mode, data)


def link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target.encode(errors="surrogateescape"))


def write(tree: Mapping[str, Node]) -> bytes:
    """``chunks``, in memory."""
    return b"".join(chunks(tree))


def chunks(tree: Mapping[str, Node]) -> Iterator[bytes]:
    """An archive of the tree (path without leading slash → node): sorted, times zero, inodes counted; padded to 512 bytes, since archives follow each other without padding.

    Of hard links the last carries the content, as GNU cpio has it. Raises ImageError for what the format cannot hold.
    """
    names = Counter(id(node) for node in tree.values() if stat.S_ISREG(node.mode))
    left = names.copy()
    inodes: dict[int, int] = {}
    size = 0
    for number, path in enumerate(sorted(tree), 1):
        node = tree[path]
        _check_place(tree, path)
        inode = inodes.setdefault(id(node), number) if id(node) in names else number
        links = 2 if stat.S_ISDIR(node.mode) else names.get(id(node), 1)
        left[id(node)] -= 1
        for chunk in _entry(path, inode, node, links, left[id(node)] <= 0):
            size += len(chunk)
            yield chunk
    trailer = b"".join(_entry(_TRAILER, 0, Node(0), 1, True))
    yield trailer + bytes(-(size + len(trailer)) % BLOCK)


def _check_place(tree: Mapping[str, Node], path: str) -> None:
    """Linux leaves out without a word what it cannot place, though it is measured: names too long (PATH_MAX, NAME_MAX), files without their folder (init/initramfs.c).

    What stands below a link lands elsewhere. Raises ImageError for either.
    """
    name, parent = path.encode(errors="surrogateescape"), path.rpartition("/")[0]
    if len(name) >= _PATH_MAX or any(len(part) > _NAME_MAX for part in name.split(b"/")):
        raise ImageError(
            "name-too-long", "Linux would leave out a file with such a long name", got=path[:300],
            expected=f"at most {_PATH_MAX - 1} bytes, {_NAME_MAX} between slashes",
        )  # fmt: skip
    if stat.S_ISLNK(tree[path].mode) and not 0 < tree[path].size < _PATH_MAX:
        raise ImageError(
            "link-target", "Linux would leave out a link with such a target", got=path[:300], expected=f"1 to {_PATH_MAX - 1} bytes"
        )
    above = tree.get(parent)
    if parent and (above is None or not stat.S_ISDIR(above.mode)):
        raise ImageError("no-folder", "Linux would leave out a file whose folder is not in the image, or is a link", got=path[:300])


def _entry(path: str, inode: int, node: Node, links: int, with_content: bool) -> Iterator[bytes]:
    name = path.encode(errors="surrogateescape") + b"\0"
    size = node.size if with_content else 0
    if size >> 32:
        raise ImageError(
            "too-large", "a file is larger than an initial ramdisk can hold", got=f"{path}: {size} bytes", expected="below 4 GiB"
        )
    fields = (inode, node.mode, node.uid, node.gid, links, 0, size, 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    yield head + bytes(-len(head) % 4)
    if size:
        yield from node.chunks()
        yield bytes(-size % 4)


def read(archive: bytes | memoryview) -> Iterator[tuple[str, Node]]:
    """The entries of one archive, up to its trailer; hard links as ``chunks`` writes them, one node each. Raises ImageError for anything but files, folders and links with safe paths."""
    view, at = memoryview(archive), 0
    waiting: dict[int, list[str]] = {}
    while True:
        header = bytes(view[at : at + _HEADER])
        if len(header) != _HEADER or header[:6] != _MAGIC:
            raise ImageError("cpio", "not a newc cpio archive", got=header[:6].hex(), expected=f"{_MAGIC.hex()} at offset {at}")
        fields = header_fields(header)
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
        node = Node(mode, bytes(view[start : start + size]), fields[2], fields[3])
        at = start + (size + 3) // 4 * 4
        names = waiting.setdefault(fields[0], []) if stat.S_ISREG(mode) and fields[4] > 1 else []
        names.append(path)
        if stat.S_ISREG(mode) and len(names) < fields[4]:
            continue
        yield from ((name, node) for name in names)


def header_fields(header: bytes) -> tuple[int, ...]:
    """The 13 numbers behind the magic one: eight hexadecimal digits each. Raises ImageError."""
    try:
        packed = bytes.fromhex(header[6:].decode("ascii"))
        return struct.unpack(">13I", packed)
    except (ValueError, struct.error) as error:
        raise ImageError("cpio", "malformed cpio header", got=header[:40].decode(errors="replace")) from error


def check_path(path: str) -> None:
    """Refuse a path that leaves the tree. Raises ImageError."""
    if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ImageError("path-escape", "a path leaves the image", got=path, expected="a path below the image's root")
