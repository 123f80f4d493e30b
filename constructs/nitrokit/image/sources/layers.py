"""Tar archives on top of each other, as OCI layers are: whiteouts, hard links, owners. What an enclave cannot have is refused with the file's name.

Sources: OCI image-spec layer.md; initial ramdisks hold no extended attributes (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from nitrokit.image.content import CHUNK, Spool
from nitrokit.image.cpio import Node, check_path
from nitrokit.image.errors import ImageError
from nitrokit.image.unpack import Tree, add, resolve_parent

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_SMALL = 1 << 16  # below this memory is cheaper than another file
_CAPABILITY = "SCHILY.xattr.security.capability"
_SETID = 0o6000


@contextmanager
def uncompressed(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """An archive without its compression (gzip, xz, zstd, none), told by its first bytes: media types and file names have been wrong. Raises ImageError."""
    head = file.read(6)
    file.seek(0)
    if head[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast(IO[bytes], io.BufferedReader(stream, CHUNK))
    elif head == b"\xfd7zXZ\0":
        with lzma.LZMAFile(file) as unpacked:
            yield cast(IO[bytes], unpacked)
    elif head[:4] == b"\x28\xb5\x2f\xfd":
        with _zstd(file, name) as stream:
            yield stream
    else:
        yield file


@contextmanager
def _zstd(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True) as stream:
            yield cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, stream), CHUNK))
    except zstandard.ZstdError as error:
        raise ImageError("layer", f"{name} is damaged", got=str(error)[:160]) from error


class _Counted:
    """A stream that knows how much was read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.size = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.size += len(data)
        return data

    def drain(self) -> None:
        while self.read(CHUNK):
            pass


class Layers:
    """A tree that layers are applied to, lowest first. ``notes``: what got lost."""

    def __init__(self, spool: Spool, excluded: Callable[[str], bool]) -> None:
        self.tree: Tree = {}
        self.notes: list[str] = []
        self._spool = spool
        self._excluded = excluded

    def apply(self, stream: IO[bytes], name: str) -> None:
        """One layer, uncompressed or as Python's tarfile can read it. Raises ImageError."""
        fresh: set[str] = set()
        counted = _Counted(stream)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|") as archive:
                for member in archive:
                    self._member(archive, member, name, fresh)
                counted.drain()
                # tarfile takes an archive that was cut off between two files for a whole one: the end must be marked (POSIX pax, "two blocks of zeros").
                if counted.size < archive.offset + tarfile.BLOCKSIZE:
                    raise EOFError("it ends without its end marker")
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, UnicodeError, ValueError) as error:
            raise ImageError("layer", f"{name} is damaged", got=str(error)[:200], expected="a tar archive") from error

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, fresh: set[str]) -> None:
        path = member.name.removeprefix("/").removeprefix("./").rstrip("/")
        if path in ("", "."):
            return
        check_path(path)
        path = resolve_parent(self.tree, path)
        parent, _, base = path.rpartition("/")
        if base == _OPAQUE:
            self._remove_below(parent, keep=fresh)
        elif base.startswith(_WHITEOUT):
            self._remove(f"{parent}/{base.removeprefix(_WHITEOUT)}".lstrip("/"), keep=fresh)
        elif not self._excluded(path) or member.isdir():
            self._put(path, self._node(archive, member, path, name))
            fresh.add(path)

    def _put(self, path: str, node: Node) -> None:
        """A layer's file replaces whatever a lower one has there; a folder over a folder changes its owner and mode alone."""
        old = self.tree.get(path)
        if old is not None and stat.S_ISDIR(old.mode) != stat.S_ISDIR(node.mode):
            self._remove(path, keep=set())
        if stat.S_ISDIR(node.mode):
            self.tree[path] = node
        add(self.tree, path, node)

    def _remove(self, path: str, *, keep: set[str]) -> None:
        if path not in keep:
            self.tree.pop(path, None)
        self._remove_below(path, keep=keep)

    def _remove_below(self, folder: str, *, keep: set[str]) -> None:
        for path in [path for path in self.tree if path.startswith(f"{folder}/" if folder else "") and path not in keep]:
            del self.tree[path]

    def _node(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, name: str) -> Node:
        if member.islnk():
            target = resolve_parent(self.tree, member.linkname.removeprefix("/").removeprefix("./"))
            found = self.tree.get(target)
            if found is None:
                raise ImageError("hard-link", f"{name} has a hard link to a file that is not there", got=f"{path} → {member.linkname}")
            return found
        if _CAPABILITY in member.pax_headers:
            self.notes.append(f"{path} loses its file capabilities: an initial ramdisk holds none")
        mode, owner = member.mode & 0o7777, (member.uid, member.gid)
        if not all(0 <= number < 1 << 32 for number in owner):
            raise ImageError("owner", f"{name} has an owner that Linux does not know", got=f"{path}: {owner}")
        if member.isdir():
            return Node(stat.S_IFDIR | (mode & 0o1777), b"", *owner)
        if member.issym():
            return Node(stat.S_IFLNK | 0o777, member.linkname.encode(errors="surrogateescape"), *owner)
        if not member.isfile():
            raise ImageError(
                "device-node", f"{name} has something that is neither file, folder nor link", got=path, do="exclude it in enclave.toml"
            )
        if mode & _SETID:
            mode &= 0o1777
            self.notes.append(f"{path} loses its setuid or setgid bit: an enclave's app gains no privileges")
        source = archive.extractfile(member)
        assert source is not None
        content = source.read() if member.size < _SMALL else self._spool.take(source, path)
        return Node(stat.S_IFREG | mode, content, *owner)
