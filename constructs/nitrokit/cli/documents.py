"""Attestation documents as people have them: raw, hex, base64, or somewhere in a JSON; from a file or stdin."""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nitrokit.errors import UsageError

MAX_INPUT = 1 << 20
STARTS = (b"\x84", b"\xd2\x84", b"\x9f", b"\xd2\x9f")  # an array of four, or of open length; tagged or not
_HEX = re.compile(rb"(?:0[xX])?((?:[0-9a-fA-F]{2})+)")
_MAX_ARRAY = 1 << 15


def read_documents(place: Path) -> list[tuple[str, bytes]]:
    """(label, document) pairs of one file, or of stdin for ``-``. What is none of the known forms is given as it is. Raises UsageError."""
    label = "stdin" if str(place) == "-" else str(place)
    data = _read(place)
    text = data.strip()
    if text[:1] in (b"{", b"[", b'"'):
        found = list(_in_json(text, label))
        if not found:
            raise UsageError(
                "no-document",
                f"no attestation document in the JSON of {label}",
                expected="a string of base64 or hex, or an array of bytes",
                do="name the file that holds the document itself",
            )
        return [(label if len(found) == 1 else f"{label} {path}", document) for path, document in found]
    return [(label, _decoded(text) or data)]


def _read(place: Path) -> bytes:
    try:
        with sys.stdin.buffer if str(place) == "-" else place.open("rb") as file:
            data = file.read(MAX_INPUT + 1)
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {place}", got=str(error), do="check the path") from error
    if len(data) > MAX_INPUT:
        raise UsageError(
            "too-large",
            f"{place} is too large for an attestation document",
            expected=f"at most {MAX_INPUT} bytes",
            do="name the document itself",
        )
    return data


def _decoded(text: bytes) -> bytes | None:
    """Hex or base64 (standard or URL-safe, padded or not, over several lines) of something that starts as a document does; None for anything else."""
    packed = b"".join(text.split())
    hexadecimal = _HEX.fullmatch(packed)
    if hexadecimal and (found := bytes.fromhex(hexadecimal[1].decode())).startswith(STARTS):
        return found
    try:
        plain = packed.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        found = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return None
    return found if found.startswith(STARTS) else None


def _in_json(text: bytes, label: str) -> Iterator[tuple[str, bytes]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "not-json", f"{label} looks like JSON and is not", got=str(error)[:200], do="check that the file is whole"
        ) from error
    todo: list[tuple[str, Any]] = [("$", value)]
    while todo:
        path, one = todo.pop(0)
        if isinstance(one, str) and (found := _decoded(one.encode(errors="replace"))):
            yield path, found
        elif isinstance(one, list) and (found := _octets(one)):
            yield path, found
        elif isinstance(one, dict):
            todo += [(f"{path}.{key}", item) for key, item in one.items()]
        elif isinstance(one, list):
            todo += [(f"{path}[{index}]", item) for index, item in enumerate(one)]


def _octets(items: list[Any]) -> bytes | None:
    if not 4 <= len(items) <= _MAX_ARRAY or not all(type(item) is int and 0 <= item <= 255 for item in items):
        return None
    found = bytes(items)
    return found if found.startswith(STARTS) else None
