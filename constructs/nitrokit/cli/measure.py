"""``nitrokit measure EIF``: what ``nitro-cli describe-eif`` prints, without an EC2 instance."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.output import JsonOption
from nitrokit.errors import UsageError


def measure(
    eif: Annotated[Path, typer.Argument(help="The enclave image file.")],
    as_json: JsonOption = False,
) -> None:
    """Print an EIF's measurements and header facts, as `nitro-cli describe-eif` does (always JSON)."""
    from nitrokit.core.eif import read_eif

    print(json.dumps(read_eif(open_bytes(eif)).describe(), indent=2))


def open_bytes(path: Path) -> mmap.mmap:
    """A file's bytes, mapped: an EIF may have gigabytes. Raises UsageError for a missing, unreadable or empty file."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UsageError(
            "unreadable-file", f"cannot read {path}", got=str(error), expected="a file with content", do="check the path"
        ) from error
