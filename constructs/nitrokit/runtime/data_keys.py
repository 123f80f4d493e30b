"""Answers of KMS kept for a while, where the app asks for it: a data key for many messages, one ciphertext decrypted once.

What is kept is used without asking KMS again: a policy or grant that was taken back takes effect when the entry ends. So nothing is kept unless the request says for how long.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nitrokit.errors import UsageError

MAX_ENTRIES = 1024
_LONGEST, _MOST = 86_400, 1 << 32


@dataclass(frozen=True)
class CachePolicy:
    """``max_age``: seconds; ``max_uses``: answers from one entry, the first included."""

    max_age: float
    max_uses: int

    @classmethod
    def parse(cls, value: object) -> CachePolicy:
        """From a request's ``{"max_age": seconds, "max_uses": number}``. Raises UsageError."""
        if not isinstance(value, dict) or not {"max_age"} <= set(value) <= {"max_age", "max_uses"}:
            raise UsageError(
                "kms-cache",
                "cache says nothing that is understood",
                got=repr(value)[:80],
                expected='{"max_age": seconds, "max_uses": number}',
            )
        age, uses = value["max_age"], value.get("max_uses", _MOST)
        if type(age) not in (int, float) or type(uses) is not int or not (0 < age <= _LONGEST and 0 < uses <= _MOST):
            raise UsageError(
                "kms-cache", "cache is out of range", got=repr(value)[:80], expected=f"up to {_LONGEST} seconds and {_MOST} uses"
            )
        return cls(age, uses)


class AnswerCache:
    """The least recently used of MAX_ENTRIES goes first. Thread-safe; ``now``: seconds, monotonic."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._entries: OrderedDict[object, tuple[float, int, dict[str, Any]]] = OrderedDict()

    def get(self, key: object, policy: CachePolicy, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The kept answer, as far as this request's policy allows, else a new one. Raises what ``make`` raises; an error is not kept."""
        with self._lock:
            made, uses, answer = self._entries.pop(key, (0.0, 0, {}))
            if uses and self._now() - made < policy.max_age and uses < policy.max_uses:
                self._entries[key] = made, uses + 1, answer
                return answer
        answer = make()
        with self._lock:
            self._entries[key] = self._now(), 1, answer
            while len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
        return answer
