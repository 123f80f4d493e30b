"""Egress: each allowed destination of the manifest gets a loopback address, a hosts entry and a route over vsock to the parent's proxy.

TLS ends in the enclave: what passes here is what the app sends. A destination that the manifest does not name has no address at all.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nitrokit.core.manifest import Egress
from nitrokit.runtime import vsock
from nitrokit.runtime.frames import accept

_CHUNK = 1 << 14
_CONNECT_TIMEOUT = 10.0


def start(destinations: Sequence[Egress], hosts: Path = Path("/run/hosts")) -> None:
    """Write the hosts file and start one forwarder for each destination."""
    addresses: dict[str, str] = {}
    for destination in destinations:
        addresses.setdefault(destination.host, f"127.0.{1 + len(addresses) // 254}.{1 + len(addresses) % 254}")
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {host}\n" for host, address in addresses.items()))
    hosts.chmod(0o644)
    for destination in destinations:
        listener = socket.create_server((addresses[destination.host], destination.port))
        threading.Thread(target=_accept, args=(listener, destination.vsock_port), daemon=True).start()


def _accept(listener: socket.socket, vsock_port: int) -> None:
    while True:
        inner = accept(listener)
        threading.Thread(target=_connect, args=(inner, vsock_port), daemon=True).start()


def _connect(inner: socket.socket, vsock_port: int) -> None:
    with inner:
        try:
            outer = vsock.connect(vsock.PARENT, vsock_port, timeout=_CONNECT_TIMEOUT)
        except OSError:
            return
        with outer:
            outer.settimeout(None)
            sender = threading.Thread(target=pump, args=(inner, outer), daemon=True)
            sender.start()
            pump(outer, inner)
            sender.join()  # the parent has ended its direction; the app may still be sending


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, then end the target's direction too."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
