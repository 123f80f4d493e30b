"""Whether the app is ready: its port takes connections."""

from __future__ import annotations

import socket

_TIMEOUT = 2.0


def is_ready(port: int | None) -> bool:
    """``port``: ready_port of enclave.toml; None: nothing says more than that the app runs."""
    if port is None:
        return True
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT).close()
    except OSError:
        return False
    return True
