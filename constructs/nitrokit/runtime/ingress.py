"""Ingress: a vsock port of the enclave leads to the app's TCP port on the loopback interface. TLS, where there is any, ends in the app: the parent sees what it would see on a wire."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

from nitrokit.runtime import vsock
from nitrokit.runtime.frames import accept
from nitrokit.runtime.streams import Relay

MAX_CONNECTIONS = 8192
_TIMEOUT = 10.0


def start(routes: Sequence[tuple[int, int]], relay: Relay, say: Callable[[str], None]) -> None:
    """``routes``: (the app's TCP port, vsock port). Raises OSError when a vsock port is taken."""
    for port, vsock_port in routes:
        threading.Thread(target=_serve, args=(vsock.listen(vsock_port), port, relay, say), daemon=True).start()


def _serve(listener: socket.socket, port: int, relay: Relay, say: Callable[[str], None]) -> None:
    while True:
        outer = accept(listener)
        if len(relay) >= MAX_CONNECTIONS:
            outer.close()
            say(f"ingress: a connection to port {port} was refused: {MAX_CONNECTIONS} are open")
            continue
        try:
            inner = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        except OSError as error:
            outer.close()
            say(f"ingress: the app takes no connection on port {port}: {error}")
            continue
        relay.join(outer, inner)
