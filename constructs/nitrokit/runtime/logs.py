"""The app's output, kept in bounded memory until the parent asks for it: an app never waits for a reader, and an enclave is never frozen by a console that nobody reads."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import Any

CAPACITY = 1 << 20
_ANSWER = 512 << 10  # of JSON: a frame holds 1 MiB


class LogBuffer:
    """The last ``capacity`` bytes of lines, numbered from 0; the oldest are dropped."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._first = 0
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Take a line; never blocks."""
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            while self._size > self._capacity:
                self._size -= len(self._lines.popleft())
                self._first += 1

    def read(self, since: int) -> dict[str, Any]:
        """``lines`` from number ``since`` on, as many as an answer holds; ``next``: the number to ask for then; ``dropped``: how many between nobody will see."""
        with self._lock:
            # Numbers begin anew with the enclave: who asks for later ones than there are is told where to go on.
            start = min(max(since, self._first), self._first + len(self._lines))
            available = list(self._lines)[start - self._first :]
        lines: list[str] = []
        room = _ANSWER
        for line in available:
            text = line.decode(errors="replace").rstrip("\n")
            room -= len(json.dumps(text)) + 2
            if room < 0 and lines:
                break
            lines.append(text)
        return {"lines": lines, "next": start + len(lines), "dropped": max(start - since, 0)}
