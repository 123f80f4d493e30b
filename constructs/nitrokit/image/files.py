"""Files that appear whole or not at all, and folders for work; a process may be killed at any time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_SCRATCH = ".work-"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file, open for reading and writing, that becomes ``path`` at the end. Until then it has no name (open(2), O_TMPFILE) where the file system can do so: a killed process leaves nothing.

    Raises OSError, also where something else than a file stands there: root would replace /dev/null.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "there is something else than a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        descriptor, unnamed = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666), True
    except OSError:
        descriptor, unnamed = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), False
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if unnamed:
                os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)  # with a folder named, links are followed (linkat(2))
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, chunks: Iterable[Any]) -> None:
    """Write chunks of bytes to a file that appears whole or not at all."""
    with replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)


def sha256_of(path: Path) -> str:
    """In hex, of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Everything below a folder, links not followed, sorted: its name below ``root`` and its path. Raises OSError for a folder that cannot be read, whose files would be missing.

    A name is what is on disk, read as UTF-8 (surrogates for other bytes), whatever this machine's locale takes it for.
    """
    found = (Path(parent) / name for parent, folders, files in os.walk(root, onerror=_raise) for name in (*folders, *files))
    return iter(sorted((os.fsencode(path.relative_to(root)).decode(errors="surrogateescape"), path) for path in found))


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder of our own below ``parent``, removed at the end. What killed processes left of theirs goes first: theirs are locked no more."""
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / f"{_SCRATCH}lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # else a new folder could be taken for an abandoned one
        for old in parent.glob(f"{_SCRATCH}*/"):
            if (lock := _lock(old)) is not None:
                shutil.rmtree(old, ignore_errors=True)
                os.close(lock)
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
        own = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if own is not None:
            os.close(own)


def _lock(folder: Path) -> int | None:
    """The folder, open and locked; None where another has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
