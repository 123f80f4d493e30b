"""One agent at a time changes this parent."""

from __future__ import annotations

import fcntl
import time
from contextlib import contextmanager
from typing import Iterator

from nitrokit.host.config import STATE, AgentError

_LOCK = STATE / "agent.lock"
_WAIT = 540.0


@contextmanager
def exclusive(wait: float = _WAIT) -> Iterator[None]:
    """Hold the host's lock. The kernel releases it with the process, however that ends. Raises AgentError when another agent does not end within ``wait`` seconds.

    Two launches at once fail both, since each binds the parent's port 9000 (aws-nitro-enclaves-cli issue 516); two downloads would write one file.
    """
    deadline = time.monotonic() + wait
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise AgentError(
                        "locked",
                        f"another agent has been at work on this host for {wait:.0f} s",
                        got=str(_LOCK),
                        do=f"wait for its end; `fuser {_LOCK}` names it",
                    ) from error
            time.sleep(0.1)
        yield
