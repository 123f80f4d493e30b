"""Egress: each allowed destination of the manifest gets a loopback address, a hosts entry and a route over vsock to the parent's proxy.

TLS ends in the enclave: what passes here is what the app sends. A destination that the manifest does not name has no address: a name server that knows nothing says so at once,
and leaves a line in the log.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from nitrokit.runtime import vsock
from nitrokit.runtime.frames import accept
from nitrokit.runtime.streams import Relay

_CONNECT_TIMEOUT = 10.0
_NAME_ERROR = 3  # RFC 1035 4.1.1, RCODE
RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


def start(destinations: Sequence[tuple[str, int, int]], hosts: Sequence[Path], relay: Relay, say: Callable[[str], None]) -> None:
    """``destinations``: (host, port, vsock port). Write each of the ``hosts`` files and start one forwarder for each destination. Raises OSError."""
    addresses: dict[str, str] = {}
    for host, _, _ in destinations:
        addresses.setdefault(host, f"127.0.{1 + len(addresses) // 254}.{1 + len(addresses) % 254}")
    for path in hosts:
        path.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {host}\n" for host, address in addresses.items()))
        path.chmod(0o644)
    for host, port, vsock_port in destinations:
        listener = socket.create_server((addresses[host], port), backlog=128)
        threading.Thread(target=_serve, args=(listener, f"{host}:{port}", vsock_port, relay, say), daemon=True).start()


def refuse_other_names(say: Callable[[str], None], address: tuple[str, int] = ("127.0.0.1", 53)) -> socket.socket:
    """A name server for all names that /etc/hosts does not have: none exists. Raises OSError."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(address)
    threading.Thread(target=_answer_names, args=(server, say), daemon=True).start()
    return server


def _serve(listener: socket.socket, name: str, vsock_port: int, relay: Relay, say: Callable[[str], None]) -> None:
    while True:
        inner = accept(listener)
        # The parent may take its time: nobody else waits for it.
        threading.Thread(target=_connect, args=(inner, name, vsock_port, relay, say), daemon=True).start()


def _connect(inner: socket.socket, name: str, vsock_port: int, relay: Relay, say: Callable[[str], None]) -> None:
    try:
        outer = vsock.connect(vsock.PARENT, vsock_port, timeout=_CONNECT_TIMEOUT)
    except OSError as error:
        inner.close()
        say(f"egress: {name} cannot be reached: the parent's vsock port {vsock_port}: {error}")
        return
    relay.join(inner, outer)


def _answer_names(server: socket.socket, say: Callable[[str], None]) -> None:
    while True:
        try:
            question, client = server.recvfrom(512)
            name, end = question_name(question)
            # Said first: who sees the refusal finds the line.
            say(f"egress: {name} is refused: no [[egress]] of enclave.toml names it")
            # Header: the question's number, "answer" with its opcode and RD bit, no such name, one question and nothing else (RFC 1035 4.1.1).
            flags = bytes([0x80 | (question[2] & 0x79), 0x80 | _NAME_ERROR])
            server.sendto(question[:2] + flags + b"\0\1" + bytes(6) + question[12 : end + 4], client)
        except (OSError, IndexError, ValueError):
            if server.fileno() < 0:
                return


def question_name(question: bytes) -> tuple[str, int]:
    """The name that a DNS query asks for, and where its type and class stand (RFC 1035 4.1.2). Raises IndexError, ValueError."""
    labels, at = [], 12
    while length := question[at]:
        if length > 63 or at + 1 + length >= len(question):
            raise ValueError("no plain name")
        labels.append(question[at + 1 : at + 1 + length].decode("ascii", "backslashreplace"))
        at += 1 + length
    return ".".join(labels), at + 1
