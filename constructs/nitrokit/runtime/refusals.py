"""What no [[egress]] of enclave.toml names fails at once, by the kernel or by a name server that knows nothing; here it leaves a line in the log.

An address has no route (ENETUNREACH), another port of an allowed host has no listener (ECONNREFUSED), another name does not exist.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

_NAME_ERROR = 3  # RFC 1035 4.1.1, RCODE
RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
_PERIOD = 1.0
_SO_ATTACH_FILTER = 26
# Of all TCP packets to this machine the first of a connection (SYN without ACK) to 127.0.0.0/8 but 127.0.0.1, where the app talks to itself (linux/filter.h; the IP header stands in front).
_FIRST_PACKETS = (
    (0x20, 0, 0, 16),  # A = destination
    (0x15, 7, 0, 0x7F000001),  # 127.0.0.1: drop
    (0x54, 0, 0, 0xFF000000),
    (0x15, 0, 5, 0x7F000000),  # not 127.0.0.0/8: drop
    (0xB1, 0, 0, 0),  # X = length of the IP header
    (0x50, 0, 0, 13),  # A = TCP's flags
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
Say = Callable[[str], None]


def refuse_names(say: Say, address: tuple[str, int] = ("127.0.0.1", 53)) -> socket.socket:
    """A name server for all names that /etc/hosts does not have: none exists. Raises OSError."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(address)
    threading.Thread(target=_answer_names, args=(server, say), daemon=True).start()
    return server


def _answer_names(server: socket.socket, say: Say) -> None:
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
        # Escaped: an app chooses these bytes, and what init says is one line.
        labels.append(question[at + 1 : at + 1 + length].decode("latin-1").encode("unicode_escape").decode())
        at += 1 + length
    return ".".join(labels), at + 1


def tell_ports(allowed: Collection[tuple[str, int]], say: Say) -> None:
    """Say who connects to a port of a loopback address of ours where nothing listens. ``allowed``: where something does. Raises OSError."""
    packets = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _FIRST_PACKETS))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FIRST_PACKETS), ctypes.addressof(program)))
    threading.Thread(target=_read_ports, args=(packets, allowed, say), daemon=True).start()


def _read_ports(packets: socket.socket, allowed: Collection[tuple[str, int]], say: Say) -> None:
    while True:
        packet = packets.recv(128)
        header = 4 * (packet[0] & 15)
        address, port = socket.inet_ntoa(packet[16:20]), int.from_bytes(packet[header + 2 : header + 4], "big")
        if (address, port) not in allowed:
            say(f"egress: {address}:{port} is refused: no [[egress]] of enclave.toml names this port of this host")


def tell_addresses(say: Say, folder: Path = Path("/proc/net"), period: float = _PERIOD) -> None:
    """Say how many attempts to reach an address failed in the last ``period`` seconds: the kernel counts them, and does not keep the addresses. Raises OSError."""
    before = _without_route(folder)
    threading.Thread(target=_count_addresses, args=(before, say, folder, period), daemon=True).start()


def _count_addresses(before: int, say: Say, folder: Path, period: float) -> None:
    while True:
        time.sleep(period)
        try:
            now = _without_route(folder)
        except OSError:  # a moment without file descriptors
            continue
        if now > before:
            say(f"egress: {now - before} attempts to reach an address are refused: an enclave reaches the names of its [[egress]] alone")
        before = now


def _without_route(folder: Path) -> int:
    names, values, *_ = (folder / "snmp").read_text().splitlines()  # "Ip:" with names, "Ip:" with numbers
    count = int(dict(zip(names.split(), values.split(), strict=True))["OutNoRoutes"])
    version6 = folder / "snmp6"
    fields = dict(line.split() for line in version6.read_text().splitlines()) if version6.exists() else {}
    return count + int(fields.get("Ip6OutNoRoutes", 0))
