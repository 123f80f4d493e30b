"""Ingress: a vsock port of the enclave leads to the app's TCP port on the loopback interface. TLS, where there is any, ends in the app: the parent sees what it would see on a wire."""

from __future__ import annotations

import errno
import functools
import os
import socket
import threading
from collections.abc import Callable, Sequence

from nitrokit.runtime import vsock
from nitrokit.runtime.streams import Relay, notice_end

_ATTEMPTS = 3
"""SYNs that are sent again, after 1, 2 and 4 s, where the app's backlog is full (tcp(7), TCP_SYNCNT): after 15 s in all the connection fails."""


def start(routes: Sequence[tuple[int, int]], relay: Relay, say: Callable[[str], None]) -> None:
    """``routes``: (the app's TCP port, vsock port). Raises OSError when a vsock port is taken."""
    for port, vsock_port in routes:
        arguments = (vsock.listen(vsock_port), functools.partial(connect, port), _reporter(port, say))
        threading.Thread(target=relay.serve, args=arguments, daemon=True).start()


def connect(port: int) -> socket.socket:
    """A connection to the app that has begun. Raises OSError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _ATTEMPTS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    notice_end(connection)
    if (number := connection.connect_ex(("127.0.0.1", port))) not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(number, os.strerror(number))
    return connection


def _reporter(port: int, say: Callable[[str], None]) -> Callable[[OSError], None]:
    return lambda error: say(f"ingress: the app takes no connection on port {port}: {error}")
