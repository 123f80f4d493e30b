"""Locks of this parent. The kernel releases them with their holder, however that ends."""

from __future__ import annotations

import fcntl
import time
from contextlib import contextmanager
from typing import ContextManager, Iterator

from nitrokit.host.config import STATE, AgentError

_WAIT = 1500.0


def exclusive(wait: float = _WAIT) -> ContextManager[None]:
    """One agent at a time changes this parent: two downloads would write one file, two allocations one pool. Raises AgentError when another does not end within ``wait`` seconds."""
    return _hold("agent", wait)


def launching(wait: float = _WAIT) -> ContextManager[None]:
    """One launch at a time: two at once fail both, since each binds the parent's port 9000 (aws-nitro-enclaves-cli issue 516). Raises AgentError."""
    return _hold("launch", wait)


@contextmanager
def _hold(name: str, wait: float) -> Iterator[None]:
    path = STATE / f"{name}.lock"
    deadline = time.monotonic() + wait
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise AgentError(
                        "locked",
                        f"another agent has been at work on this host for {wait:.0f} s",
                        got=str(path),
                        do=f"wait for its end; `fuser {path}` names it",
                    ) from error
            time.sleep(0.1)
        yield
