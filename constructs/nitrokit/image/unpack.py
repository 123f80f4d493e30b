"""Debian packages and wheels, unpacked into a tree without running their scripts. Setuid bits, device nodes and paths that leave the tree are refused."""

from __future__ import annotations

import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from nitrokit.image.cpio import Node, check_path, file, folder, link
from nitrokit.image.decompression import uncompressed
from nitrokit.image.errors import ImageError

MAX_UNPACKED = 2 << 30
_MAX_LINKS = 40  # that Linux follows (path_resolution(7))
_MOUNTED = ("dev", "proc", "sys")
_MOUNT_POINTS = (*_MOUNTED, "run", "tmp")
_NOT_A_WHEEL = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)
"""What zipfile raises for damaged, encrypted or unknown members."""
Tree = dict[str, Node]


def _nothing(_: str) -> bool:
    return False


def unpack_deb(path: Path, tree: Tree, excluded: Callable[[str], bool] = _nothing) -> None:
    """Add a package's files. ``excluded``: paths that the caller will take out again, so that what they are does not matter. Raises ImageError, naming the package's file."""
    members = dict(_ar(path.read_bytes(), path.name))
    data = next((content for name, content in members.items() if name.startswith("data.tar")), None)
    if data is None:
        raise ImageError("deb", f"{path.name} has no data archive", got=", ".join(members))
    try:
        with (
            uncompressed(io.BytesIO(data), path.name, most=MAX_UNPACKED) as contents,
            tarfile.open(fileobj=cast(IO[bytes], contents), mode="r|", encoding="utf-8") as archive,
        ):
            for member in archive:
                _add_tar_member(archive, member, tree, path.name, excluded)
            contents.read_all()
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise ImageError("deb", f"{path.name} is damaged", got=str(error)) from error


def _ar(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    if data[:8] != b"!<arch>\n":
        raise ImageError("deb", f"{name} is not a Debian package", got=data[:8].hex())
    at = 8
    while at + 60 <= len(data):
        header = data[at : at + 60]
        try:
            size = int(header[48:58])
        except ValueError as error:
            raise ImageError("deb", f"{name} is damaged", got=repr(header[48:58])) from error
        if at + 60 + size > len(data):
            raise ImageError(
                "deb", f"{name} ends in the middle of a member", got=f"{len(data)} bytes", expected=f"at least {at + 60 + size}"
            )
        yield header[:16].decode(errors="replace").strip().rstrip("/"), data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _add_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree, package: str, excluded: Callable[[str], bool]) -> None:
    path = member.name.removeprefix("./").rstrip("/")
    if path in ("", "."):
        return
    check_path(path)
    path = resolve_parent(tree, path)
    unwanted = excluded(path) and not member.isdir()
    if not unwanted and member.mode & (stat.S_ISUID | stat.S_ISGID) and not member.isdir():
        raise ImageError("setuid", f"{package} has a setuid or setgid file", got=path, do="exclude it in enclave.toml, or omit the package")
    if member.isdir():
        node = folder(member.mode & 0o777)
    elif member.issym():
        node = link(member.linkname)
    elif member.islnk():
        node = tree.get(resolve_parent(tree, member.linkname.removeprefix("./"))) or _missing_link(package, path)
    elif member.isfile():
        source = archive.extractfile(member)
        assert source is not None
        node = file(source.read(), member.mode & 0o777)
    elif unwanted:
        return
    else:
        raise ImageError("device-node", f"{package} has something that is neither file, folder nor link", got=path)
    add(tree, path, node)


def _missing_link(package: str, path: str) -> Node:
    raise ImageError("hard-link", f"{package} has a hard link to a file that is not there", got=path)


def add(tree: Tree, path: str, node: Node) -> None:
    """Put a node into the tree, through links to folders as a package manager does (usr-merge), never over a folder with something else. Raises ImageError."""
    path = resolve_parent(tree, path)
    old = tree.get(path)
    if old is not None and stat.S_ISDIR(old.mode) and not stat.S_ISDIR(node.mode):
        raise ImageError("conflict", "a folder would be replaced by something else", got=path)
    if old is not None and stat.S_ISLNK(old.mode) and stat.S_ISDIR(node.mode):
        return
    for parent in list(PurePosixPath(path).parents)[:-1]:
        tree.setdefault(str(parent), folder())
    tree[path] = node


def add_mount_points(tree: Tree) -> None:
    """The folders that every root has for init to mount on. Raises ImageError where the image has something else: a link would lead init elsewhere."""
    for name in _MOUNT_POINTS:
        node = tree.setdefault(name, folder(0o1777 if name == "tmp" else 0o755))
        if name in _MOUNTED and not stat.S_ISDIR(node.mode):
            raise ImageError("mount-point", f"the image's /{name} is no folder", expected="a folder that init can mount on")


def resolve_parent(tree: Tree, path: str) -> str:
    """The path with links among its parent folders followed inside the tree, and without empty parts: ``a//b`` is ``a/b``, not a second file. Raises ImageError for a loop or an escape."""
    path = "/".join(part for part in path.split("/") if part not in ("", "."))
    for _ in range(_MAX_LINKS + 1):
        parts = path.split("/")
        for count in range(1, len(parts)):
            prefix = "/".join(parts[:count])
            node = tree.get(prefix)
            if node is not None and stat.S_ISLNK(node.mode):
                path = "/".join([_target(prefix, node.data.decode(errors="surrogateescape")), *parts[count:]])
                check_path(path)
                break
        else:
            return path
    raise ImageError("link-loop", "links in the image lead round in a circle", got=path)


def _target(link_path: str, target: str) -> str:
    base = [] if target.startswith("/") else link_path.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            if not base:
                raise ImageError("path-escape", "a link leaves the image", got=f"{link_path} → {target}")
            base.pop()
        elif part not in ("", "."):
            base.append(part)
    return "/".join(base)


def unpack_wheel(path: Path, tree: Tree, site: str) -> None:
    """Add a wheel's modules and data below the folder ``site``. Raises ImageError."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_UNPACKED:
                raise ImageError("bomb", f"{path.name} unpacks to more than {MAX_UNPACKED >> 30} GiB")
            for item in archive.infolist():
                check_path(item.filename)
                if item.is_dir():
                    continue
                if stat.S_ISLNK(item.external_attr >> 16):
                    raise ImageError("wheel-link", f"{path.name} has a link", got=item.filename)
                executable = (item.external_attr >> 16) & 0o111
                add(tree, f"{site}/{_wheel_path(item.filename)}", file(archive.read(item), 0o755 if executable else 0o644))
    except _NOT_A_WHEEL as error:
        raise ImageError("wheel", f"{path.name} is damaged", got=str(error)) from error


def _wheel_path(name: str) -> str:
    """``x-1.data/purelib/y`` installs as ``y`` (PyPA binary distribution format)."""
    parts = name.split("/")
    return "/".join(parts[2:]) if len(parts) > 2 and parts[0].endswith(".data") and parts[1] in ("purelib", "platlib") else name
