"""Fuzzed inside an enclave: what the parent sends to the control port, what the app asks the name server, and the boot configuration."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import cache

from nitrokit.core import boot
from nitrokit.core.nsm import NsmClient, encode_response
from nitrokit.runtime import control, frames, refusals
from nitrokit.runtime.logs import LogBuffer


def _control(data: bytes) -> None:
    """A frame of the parent's, and what the control server makes of it; an answer fits a frame."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data[: 1 << 15])
        theirs.shutdown(socket.SHUT_WR)
        request = frames.receive(ours)
        request.pop("wait", None)
        frames.send(ours, _control_server()(request))


@cache
def _control_server() -> frames.Handler:
    logs = LogBuffer()
    logs.append("stdout", b"line\xff\n")
    nsm = NsmClient(lambda _: encode_response("Attestation", {"document": b"document"}))
    return control.handler(nsm, lambda: {"app": "running"}, logs)


def _boot(data: bytes) -> None:
    assert boot.decode(boot.encode(boot.decode(data))) is not None


def _name_question(data: bytes) -> None:
    try:
        name, end = refusals.question_name(data)
    except (IndexError, ValueError):
        return  # as it says
    assert end <= len(data) and name.isascii()


def _made_requests() -> list[bytes]:
    requests = ({"op": "health"}, {"op": "attest", "nonce": "bm9uY2U="}, {"op": "logs", "since": 0, "wait": 0})
    return [len(data).to_bytes(4, "big") + data for data in (json.dumps(one).encode() for one in requests)]


def _made_boot() -> list[bytes]:
    process = boot.Process(("/bin/true",), "/", 1, 2, (3,), {"A": "b"}, True, "never", 80)
    return [boot.encode(boot.Boot(process, (("host.example.com", 443, 8001),), ((80, 8080),)))]


TARGETS: dict[str, Callable[[bytes], None]] = {"control": _control, "boot": _boot, "name_question": _name_question}
MADE: dict[str, Callable[[], list[bytes]]] = {
    "control": _made_requests,
    "boot": _made_boot,
    "name_question": lambda: [b"\x12\x34\1\0\0\1" + bytes(6) + b"\3www\7example\3com\0\0\1\0\1"],
}
