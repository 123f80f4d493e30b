"""Strict CBOR (RFC 8949) for untrusted bytes: cbor2 decodes, a walk over the encoding refuses what cbor2 lets pass.

Refused: duplicate keys, trailing bytes, integers and lengths that are not in their shortest form, tags, floats, depth and size beyond limits.
Allowed: definite and indefinite lengths (AWS's documents have an indefinite payload map since 2025; before it was definite).
"""

from __future__ import annotations

from typing import Any

import cbor2

from nitrokit.errors import NitrokitError

MAX_DEPTH = 8
MAX_SIZE = 256 * 1024
_INDEFINITE = 31
_BREAK = 0xFF
_SHORTEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
_SIMPLE = {20, 21, 22}  # false, true, null


class CborError(NitrokitError):
    """Bytes that are not CBOR as we accept it."""

    area = "cbor"


def decode(data: bytes, *, max_depth: int = MAX_DEPTH, max_size: int = MAX_SIZE) -> Any:
    """Decode exactly one item. Raises CborError."""
    if len(data) > max_size:
        raise CborError("too-large", "CBOR item too large", got=f"{len(data)} bytes", expected=f"at most {max_size}")
    try:
        end = _walk(data, 0, max_depth)
    except IndexError as error:
        raise CborError("truncated", "CBOR ends in the middle of an item", got=f"{len(data)} bytes") from error
    if end != len(data):
        raise CborError("trailing-bytes", "bytes follow the CBOR item", got=f"{len(data) - end} bytes after offset {end}", expected="none")
    try:
        return cbor2.loads(data, allow_duplicate_keys=False)
    except Exception as error:  # cbor2 and whatever a decoded value may raise: untrusted bytes cause our error alone
        raise CborError("invalid", "not CBOR", got=f"{type(error).__name__}: {error}"[:200]) from error


def encode(value: Any) -> bytes:
    """Encode with definite lengths and shortest integers, map order kept."""
    return cbor2.dumps(value)


def _walk(data: bytes, at: int, depth: int) -> int:
    """Check the item at offset ``at`` and return the offset behind it. Raises CborError; IndexError when the bytes end."""
    if depth <= 0:
        raise CborError("too-deep", "CBOR is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
    major, information = data[at] >> 5, data[at] & 0x1F
    at += 1
    if major == 6:
        raise CborError("tag", "CBOR tags are not accepted here", got=f"tag at offset {at - 1}")
    if major == 7:
        if information not in _SIMPLE:
            raise CborError(
                "simple-value",
                "CBOR floats and simple values are not accepted here",
                got=f"additional information {information}",
                expected="false, true or null",
            )
        return at
    if information == _INDEFINITE:
        return _walk_indefinite(data, at, major, depth)
    value, at = _argument(data, at, information)
    if major in (2, 3):
        if at + value > len(data):
            raise IndexError
        return at + value
    for _ in range({0: 0, 1: 0, 4: value, 5: 2 * value}[major]):
        at = _walk(data, at, depth - 1)
    return at


def _argument(data: bytes, at: int, information: int) -> tuple[int, int]:
    """An item's argument and the offset behind it; refuses forms that are longer than needed (RFC 8949 section 4.1)."""
    if information < 24:
        return information, at
    if information not in _SHORTEST:
        raise CborError("reserved", "reserved CBOR additional information", got=information, expected="0 to 27, or 31")
    size = 1 << (information - 24)
    if at + size > len(data):
        raise IndexError
    value = int.from_bytes(data[at : at + size], "big")
    if value < _SHORTEST[information]:
        raise CborError("non-minimal", "CBOR integer or length is not in its shortest form", got=f"{value} in {size} bytes")
    return value, at + size


def _walk_indefinite(data: bytes, at: int, major: int, depth: int) -> int:
    if major not in (2, 3, 4, 5):
        raise CborError("reserved", "indefinite length on an integer", got=f"major type {major}")
    count = 0
    while data[at] != _BREAK:
        if major in (2, 3) and (data[at] >> 5 != major or data[at] & 0x1F == _INDEFINITE):
            raise CborError("bad-chunk", "an indefinite string holds something other than definite chunks of its type")
        at = _walk(data, at, depth - 1)
        count += 1
    if major == 5 and count % 2:
        raise CborError("odd-map", "an indefinite map has a key without a value")
    return at + 1
