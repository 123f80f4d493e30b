"""Egress: each allowed destination of the manifest gets a loopback address, a hosts entry and a route over vsock to the parent's proxy.

TLS ends in the enclave: what passes here is what the app sends. What the manifest does not name fails at once: ``refusals``.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from nitrokit.runtime import vsock
from nitrokit.runtime.streams import Relay, notice_end


def start(
    destinations: Sequence[tuple[str, int, int]], hosts: Sequence[Path], relay: Relay, say: Callable[[str], None]
) -> set[tuple[str, int]]:
    """``destinations``: (host, port, vsock port). Write each of the ``hosts`` files, start one forwarder for each destination, and return where they listen. Raises OSError."""
    addresses: dict[str, str] = {}
    for host, _, _ in destinations:
        addresses.setdefault(host, f"127.0.{1 + len(addresses) // 254}.{1 + len(addresses) % 254}")
    for path in hosts:
        path.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {host}\n" for host, address in addresses.items()))
        path.chmod(0o644)
    for host, port, vsock_port in destinations:
        listener = socket.create_server((addresses[host], port), backlog=1024)
        # Its connections inherit both. What passes has been gathered by its sender.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        notice_end(listener)
        arguments = (listener, functools.partial(vsock.begin, vsock.PARENT, vsock_port), _reporter(host, port, vsock_port, say))
        threading.Thread(target=relay.serve, args=arguments, daemon=True).start()
    return {(addresses[host], port) for host, port, _ in destinations}


def _reporter(host: str, port: int, vsock_port: int, say: Callable[[str], None]) -> Callable[[OSError], None]:
    return lambda error: say(f"egress: {host}:{port} cannot be reached: the parent's vsock port {vsock_port}: {error}")
