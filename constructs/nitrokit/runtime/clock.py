"""The clock: the parent's time is an attacker's; the hypervisor's stands in every attestation document, and is followed.

Nitro Enclaves have no network time, and drift (aws-nitro-enclaves-cli issue 500, nsm-api issue 15); TLS and SigV4 then fail. What is more than MAX_SKEW off is set at once; less is slewed,
as adjtime(3) does it, by half a millisecond each second: the clock goes on, and never back.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from nitrokit.core import cbor
from nitrokit.core.nsm import NsmError, NsmProvider

MAX_SKEW = 0.5
"""Seconds that the clock may differ before it is set: between two comparisons it is never further off than this and its drift."""
PERIOD = 600.0
"""Seconds from one comparison to the next."""
_SLOW = 2.0
_NOISE = 0.01
_libc = ctypes.CDLL(None, use_errno=True)


def _slew(seconds: float) -> None:
    """Let the system's clock gain so many seconds, slowly. Raises OSError."""
    whole, part = divmod(round(seconds * 1e6), 1_000_000)
    if _libc.adjtime((ctypes.c_long * 2)(whole, part), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Clock:
    """Compares the system's clock with the hypervisor's, and sets or slews it. ``read`` and ``set``: the system's clock, seconds since 1970."""

    def __init__(
        self,
        nsm: NsmProvider,
        *,
        read: Callable[[], float] = time.time,
        set: Callable[[float], None] = lambda seconds: time.clock_settime(time.CLOCK_REALTIME, seconds),
        slew: Callable[[float], None] = _slew,
        period: float = PERIOD,
    ) -> None:
        self._nsm = nsm
        self._read = read
        self._set = set
        self._slew = slew
        self._period = period
        self._state: dict[str, Any] = {"clock_skew_ms": None, "clock_set": 0}

    def state(self) -> dict[str, Any]:
        """For the control server: the skew when last compared, and how often the clock was set."""
        return dict(self._state)

    def synchronize(self) -> None:
        """Compare once, and set or slew. Raises NsmError, OSError where the clock may not be touched."""
        started = time.monotonic()
        hypervisor = _timestamp(self._nsm.attestation())
        took = time.monotonic() - started
        if took > _SLOW:
            return  # an answer that old says little; the next comparison comes
        skew = self._read() - (hypervisor + took / 2)
        self._state["clock_skew_ms"] = round(skew * 1000)
        if abs(skew) > MAX_SKEW:
            self._set(self._read() - skew)
            self._state["clock_set"] += 1
        elif abs(skew) > _NOISE + took / 2:
            self._slew(-skew)

    def keep(self, say: Callable[[str], None]) -> None:
        """Compare now, which may fail as ``synchronize`` does, and from then on every period, in a thread: a failure is said, and tried again."""
        self.synchronize()
        threading.Thread(target=self._loop, args=(say,), daemon=True).start()

    def _loop(self, say: Callable[[str], None]) -> None:
        while True:
            time.sleep(self._period)
            try:
                self.synchronize()
            except (NsmError, cbor.CborError, OSError) as error:
                say(f"the clock was not compared: {error}")


def _timestamp(document: bytes) -> float:
    """The time in our own NSM's document, in seconds. Whether it is authentic is not for an enclave to doubt: the device is all that it has."""
    try:
        payload = cbor.decode(cbor.decode(document)[2])
        milliseconds = payload["timestamp"]
        if type(milliseconds) is int:
            return milliseconds / 1000
    except (cbor.CborError, LookupError, TypeError) as error:
        raise NsmError("response", "the NSM's document has no time", got=str(error)[:80]) from error
    raise NsmError("response", "the NSM's document has no time", got=type(milliseconds).__name__)
