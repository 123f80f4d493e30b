"""Tar archives on top of each other, as OCI layers are: whiteouts, hard links, owners. What an enclave cannot have is refused with the file's name.

Sources: OCI image-spec layer.md; initial ramdisks hold no extended attributes (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable
from typing import IO, cast

from nitrokit.image.content import Spool
from nitrokit.image.cpio import Node, check_path
from nitrokit.image.decompression import Contents
from nitrokit.image.errors import ImageError
from nitrokit.image.exclude import without_excluded
from nitrokit.image.sources.attributes import LostAttributes
from nitrokit.image.unpack import Tree, add, resolve_parent

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_SMALL = 1 << 10  # below this memory is cheaper than another place on disk
_SETID = 0o6000


class Layers:
    """A tree that layers are applied to, lowest first."""

    def __init__(self, spool: Spool, excluded: Callable[[str], bool]) -> None:
        self._tree: Tree = {}
        self._notes: list[str] = []
        self._lost = LostAttributes()
        self._spool = spool
        self._excluded = excluded

    def result(self) -> tuple[Tree, tuple[str, ...]]:
        """The tree without what is excluded, and what got lost on the way."""
        return without_excluded(self._tree, self._excluded), (*self._notes, *self._lost.notes())

    def apply(self, contents: Contents, name: str) -> None:
        """One layer. Raises ImageError."""
        fresh: set[str] = set()
        try:
            with tarfile.open(fileobj=cast(IO[bytes], contents), mode="r|", encoding="utf-8") as archive:
                for member in archive:
                    self._member(archive, member, name, fresh)
                contents.read_all()
                # tarfile takes an archive that was cut off between two files for a whole one: the end must be marked (POSIX pax, "two blocks of zeros").
                if contents.size < archive.offset + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("it ends without its end marker")
        except (tarfile.TarError, UnicodeError, ValueError) as error:
            raise ImageError("layer", f"{name} is damaged", got=str(error)[:200], expected="a tar archive") from error

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, fresh: set[str]) -> None:
        path = member.name.removeprefix("/").removeprefix("./").rstrip("/")
        if path in ("", "."):
            return
        check_path(path)
        path = resolve_parent(self._tree, path)
        parent, _, base = path.rpartition("/")
        if base == _OPAQUE:
            self._remove_below(parent, keep=fresh)
        elif base.startswith(_WHITEOUT):
            self._remove(f"{parent}/{base.removeprefix(_WHITEOUT)}".lstrip("/"), keep=fresh)
        elif not self._excluded(path) or member.isreg() or member.isdir() or member.issym():
            self._put(path, self._node(archive, member, path, name))
            fresh.add(path)

    def _put(self, path: str, node: Node) -> None:
        """A layer's file replaces whatever a lower one has there; a folder over a folder changes its owner and mode alone."""
        old = self._tree.get(path)
        if old is not None and stat.S_ISDIR(old.mode) != stat.S_ISDIR(node.mode):
            self._remove(path, keep=set())
        if stat.S_ISDIR(node.mode):
            self._tree[path] = node
        add(self._tree, path, node)

    def _remove(self, path: str, *, keep: set[str]) -> None:
        if path not in keep:
            self._tree.pop(path, None)
        self._remove_below(path, keep=keep)

    def _remove_below(self, folder: str, *, keep: set[str]) -> None:
        for path in [path for path in self._tree if path.startswith(f"{folder}/" if folder else "") and path not in keep]:
            del self._tree[path]

    def _node(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, name: str) -> Node:
        if member.islnk():
            target = resolve_parent(self._tree, member.linkname.removeprefix("/").removeprefix("./"))
            found = self._tree.get(target)
            if found is None:
                raise ImageError("hard-link", f"{name} has a hard link to a file that is not there", got=f"{path} → {member.linkname}")
            return found
        mode, owner = member.mode & 0o7777, (member.uid, member.gid)
        if not all(0 <= number < 1 << 32 for number in owner):
            raise ImageError("owner", f"{name} has an owner that Linux does not know", got=f"{path}: {owner}")
        wanted = not self._excluded(path)
        if wanted:
            self._lost.look_at(path, member.pax_headers)
        if member.isdir():
            return Node(stat.S_IFDIR | (mode & 0o1777), b"", *owner)
        if member.issym():
            return Node(stat.S_IFLNK | 0o777, member.linkname.encode(errors="surrogateescape"), *owner)
        if not member.isfile():
            raise ImageError(
                "device-node", f"{name} has something that is neither file, folder nor link", got=path, do="exclude it in enclave.toml"
            )
        if mode & _SETID and wanted:
            self._notes.append(f"{path} loses its setuid or setgid bit: an enclave's app gains no privileges")
        source = archive.extractfile(member)
        assert source is not None
        content = source.read() if member.size < _SMALL else self._spool.take(source, path)
        return Node(stat.S_IFREG | (mode & 0o1777), content, *owner)
