"""Comparisons in the order in which they were found, on disk beyond the first few, so that memory does not grow with the fleet; and texts that are made of them piece by piece."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

from nitrokit.gate.report import Comparison

_IN_MEMORY = 1 << 20


class Spool:
    """Can be read any number of times; gone when nobody holds it any more."""

    def __init__(self, comparisons: Iterable[Comparison]) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY, prefix="nitrokit-gate-")
        weakref.finalize(self, self._file.close)
        for one in comparisons:
            self._file.write(json.dumps(one.as_dict()).encode() + b"\n")
        self._size = self._file.tell()

    def __iter__(self) -> Iterator[Comparison]:
        at = 0
        while at < self._size:
            self._file.seek(at)  # another reader may have moved it
            line = self._file.readline()
            at += len(line)
            yield Comparison.from_dict(json.loads(line))


class _Streamed(list[Any]):
    """What the JSON encoder takes for a list and asks for one element after the other."""

    def __init__(self, values: Iterable[Any], *, empty: bool) -> None:
        self._values, self._empty = values, empty

    def __bool__(self) -> bool:
        return not self._empty

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


def streamed(values: Iterable[Any], length: int) -> list[Any]:
    """A JSON array of ``length`` values that are not held at once, for ``json_pieces`` alone."""
    return _Streamed(values, empty=not length)


def json_pieces(value: Any) -> Iterator[str]:
    """JSON as it is made, indented, with a line's end."""
    yield from json.JSONEncoder(indent=2).iterencode(value)
    yield "\n"
