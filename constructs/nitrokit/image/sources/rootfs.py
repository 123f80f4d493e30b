"""A root file system as it is: a folder, or a tar archive."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nitrokit.core.manifest import Rootfs
from nitrokit.image.content import Stored
from nitrokit.image.cpio import Node, folder
from nitrokit.image.decompression import uncompressed
from nitrokit.image.errors import ImageError
from nitrokit.image.exclude import excluder, without_excluded
from nitrokit.image.files import sha256_of, walk
from nitrokit.image.sources import SourceImage, Workshop
from nitrokit.image.sources.layers import Layers
from nitrokit.image.unpack import Tree


def read_rootfs(source: Rootfs, shop: Workshop) -> SourceImage:
    """Raises ImageError."""
    path = shop.folder / source.path
    if path.is_dir():
        return SourceImage(_folder(path, source), notes=_folder_notes(source))
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise ImageError("rootfs", f"cannot read {path}", got=str(error), expected="a tar archive or a folder") from error
    if source.sha256 not in (None, digest):
        raise ImageError("rootfs-digest", f"{source.path} is not the pinned archive", got=digest, expected=source.sha256)
    notes = [] if source.sha256 else [f"{source.path} is not pinned: name its sha256 in [rootfs]"]
    layers = Layers(shop.spool, excluder(source.exclude))
    with path.open("rb") as file, uncompressed(file, source.path) as contents:
        layers.apply(contents, source.path)
    tree, lost = layers.result()
    return SourceImage(tree, notes=(*notes, *lost))


def _folder_notes(source: Rootfs) -> tuple[str, ...]:
    if source.sha256:
        raise ImageError(
            "rootfs-digest",
            f"{source.path} is a folder, which has no SHA-256",
            expected="a tar archive",
            do="remove sha256 from [rootfs], or pack it",
        )
    return (f"{source.path} is a folder: owners become root, and modes lose what this machine's umask may have changed",)


def _folder(root: Path, source: Rootfs) -> Tree:
    """Files of a folder belong to whoever unpacked it: owners become root, and of the mode the executable bit alone is taken, as version control keeps it."""
    tree: Tree = {}
    excluded = excluder(source.exclude)
    try:
        for relative, path in walk(root):
            tree[relative] = folder() if excluded(relative) else _node(path, relative)
    except OSError as error:
        raise ImageError("rootfs", f"cannot read {error.filename}", got=str(error), expected="folders that this user may read") from error
    return without_excluded(tree, excluded)


def _node(path: Path, relative: str) -> Node:
    status = path.lstat()
    executable = 0o755 if status.st_mode & 0o100 else 0o644
    if stat.S_ISDIR(status.st_mode):
        return Node(stat.S_IFDIR | (0o1777 if status.st_mode & stat.S_ISVTX else 0o755))
    if stat.S_ISLNK(status.st_mode):
        return Node(stat.S_IFLNK | 0o777, os.readlink(os.fsencode(path)))
    if stat.S_ISREG(status.st_mode):
        return Node(stat.S_IFREG | executable, Stored(path, 0, status.st_size))
    raise ImageError(
        "device-node", "the folder has something that is neither file, folder nor link", got=relative, do="exclude it in enclave.toml"
    )
