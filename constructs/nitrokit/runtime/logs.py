"""The app's output, kept in bounded memory until the parent asks for it: an app never waits for a reader, and an enclave is never frozen by a console that nobody reads."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from itertools import islice
from typing import Any

CAPACITY = 1 << 20
MAX_LINE = 1 << 16
_LINE_COST = 64
"""What a line costs beside its bytes: an app that prints empty lines must not fill the memory either."""
_ANSWER = 512 << 10  # of JSON: a frame holds 1 MiB


class LogBuffer:
    """The last ``capacity`` bytes of lines, numbered from 0; the oldest are dropped. A line is of the app's "stdout" or "stderr", or of "init"."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lines: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._first = 0
        self._readers: dict[str, tuple[int, float]] = {}
        self._changed = threading.Condition()

    def append(self, stream: str, line: bytes) -> None:
        """Take a line of at most MAX_LINE bytes; never waits for a reader."""
        with self._changed:
            self._lines.append((stream, line))
            self._size += len(line) + _LINE_COST
            while self._size > self._capacity:
                self._size -= len(self._lines.popleft()[1]) + _LINE_COST
                self._first += 1
            self._changed.notify_all()

    def say(self, text: str) -> None:
        """A line of init's own."""
        self.append("init", f"nitrokit: {text}\n".encode(errors="backslashreplace")[:MAX_LINE])

    def read(self, since: int, wait: float = 0.0, reader: str = "parent") -> dict[str, Any]:
        """``lines`` from number ``since`` on, as many as an answer holds, and the ``streams`` they are of; ``next``: the number to ask for then; ``dropped``: how many between nobody will see.

        ``wait``: seconds to wait for the first of them.
        """
        with self._changed:
            self._readers[reader] = since, time.monotonic()
            self._changed.notify_all()
            # Numbers begin anew with the enclave: who asks for later ones than there are is told at once where to go on.
            self._changed.wait_for(lambda: since != self._end, wait)
            start = min(max(since, self._first), self._end)
            available = list(islice(self._lines, start - self._first, None))
        lines: list[str] = []
        room = _ANSWER
        for _, line in available:
            text = line.decode(errors="replace").removesuffix("\n")
            room -= len(json.dumps(text)) + 12
            if room < 0 and lines:
                break
            lines.append(text)
        streams = [stream for stream, _ in available[: len(lines)]]
        return {"lines": lines, "streams": streams, "next": start + len(lines), "dropped": max(start - since, 0)}

    def settle(self, seconds: float, recent: float = 60.0) -> None:
        """Wait, at most so long, for those who have asked in the last ``recent`` seconds to have got the last line: the enclave is about to end."""
        with self._changed:
            followers = [name for name, (_, asked) in self._readers.items() if time.monotonic() - asked < recent]
            self._changed.wait_for(lambda: all(self._readers[name][0] >= self._end for name in followers), seconds)

    @property
    def _end(self) -> int:
        return self._first + len(self._lines)
