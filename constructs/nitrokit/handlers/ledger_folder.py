"""An export of the ledger in a folder. Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from nitrokit.handlers.ledger_export import ExportError


class FolderStore:
    """Where an export lies: a folder, made when something is written. Raises ExportError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        try:
            return (self._folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no such file can be there
                return None
            raise self._unusable(error) from error

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._write(path, data, os.link)
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        self._write(path, data, os.rename)

    def _write(self, path: str, data: bytes, put: Callable[[str, Path], None]) -> None:
        """A temporary file beside it, put in its place whole."""
        target = self._folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".export-", delete=False) as file:
                file.write(data)
            try:
                os.chmod(file.name, 0o644)
                put(file.name, target)
            finally:
                Path(file.name).unlink(missing_ok=True)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> ExportError:
        return ExportError(
            "folder", f"the folder {self._folder} cannot be used", got=str(error), do="check the path, its permissions and the space left"
        )
