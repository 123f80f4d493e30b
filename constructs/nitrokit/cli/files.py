"""Files that a user names: what is wrong with one is told with its name. A full disk is the machine's, and goes on as OSError."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from nitrokit.errors import UsageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def read_file(path: Path) -> bytes:
    """Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), do="check the path") from error


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that appears whole or not at all. Raises UsageError; OSError where there is no room."""
    from nitrokit.image.files import write_atomically

    try:
        write_atomically(path, chunks)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OSError | UsageError:
    """What to raise when ``path`` cannot be written."""
    if error.errno in _NO_ROOM:
        return error
    return UsageError("unwritable-file", f"cannot write {path}", got=str(error), do="check the path")
