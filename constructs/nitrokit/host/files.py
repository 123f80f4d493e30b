"""Files that outlive a kill and a loss of power: whole, or as they were."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict


def write_atomically(path: Path, text: str) -> bool:
    """Write a file whole or not at all; False when it says so already."""
    try:
        if path.read_text() == text:
            return False
    except (OSError, ValueError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name: what a killed agent left behind is overwritten, and does not pile up. Callers hold a lock.
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w") as file:
            file.write(text)
            settle(file.fileno())
        replace(temporary, path)
    finally:
        if temporary.exists():
            temporary.unlink()
    return True


def replace(source: Path, target: Path) -> None:
    """Rename, and have the folder on the disk: a name is lost with the power otherwise."""
    os.replace(source, target)
    folder = os.open(str(target.parent), os.O_RDONLY | os.O_DIRECTORY)
    try:
        settle(folder)
    finally:
        os.close(folder)


def settle(descriptor: int) -> None:
    """Wait until the disk has it."""
    os.fsync(descriptor)


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    try:
        path.unlink()
    except FileNotFoundError:
        pass


def read_state(path: Path) -> Dict[str, Any]:
    """A state file of our own; empty where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
