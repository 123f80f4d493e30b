"""Talking to an enclave over vsock: a 4-byte big-endian length and a JSON object each way."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Dict

from nitrokit.host.config import AgentError

_MAX_FRAME = 1 << 20
_TIMEOUT = 60.0


def ask(cid: int, port: int, request: Dict[str, Any], *, listening_within: float = 0, timeout: float = _TIMEOUT) -> Dict[str, Any]:
    """One request, one answer. ``listening_within``: seconds that the app may take until it listens; a request that was sent is never sent again. Raises AgentError."""
    data = json.dumps(request).encode()
    try:
        with _connect(cid, port, time.monotonic() + listening_within, timeout) as connection:
            connection.sendall(struct.pack(">I", len(data)) + data)
            (size,) = struct.unpack(">I", _receive(connection, 4))
            if size > _MAX_FRAME:
                raise AgentError("answer", "the enclave's answer is too large", got=size, expected=_MAX_FRAME)
            answer = json.loads(_receive(connection, size))
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise AgentError(
            "no-answer", f"the enclave does not answer on port {port}", got=str(error), do="look at the enclave's health"
        ) from error
    if not isinstance(answer, dict):
        raise AgentError("answer", "the enclave's answer is not an object", got=type(answer).__name__)
    return answer


def _connect(cid: int, port: int, deadline: float, timeout: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect((cid, port))
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError("the connection ended in the middle of an answer")
        data += chunk
    return data
