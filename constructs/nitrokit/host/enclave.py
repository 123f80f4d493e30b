"""Talking to an enclave over vsock: a 4-byte big-endian length and a JSON object each way."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Dict

from nitrokit.host.commands import nitro_cli
from nitrokit.host.config import AgentError

CONTROL_PORT = 5001
_MAX_FRAME = 1 << 20
_TIMEOUT = 60.0


def find(name: str) -> Dict[str, Any]:
    """The running enclave of that name, as describe-enclaves shows it. Raises AgentError."""
    for one in nitro_cli(["describe-enclaves"], "listing enclaves"):
        if one.get("EnclaveName") == name and one.get("State") == "RUNNING":
            return dict(one)
    raise AgentError(
        "not-running", f"no enclave {name} is running", do="run it (again): `run`; if it ends by itself, read its console in debug mode"
    )


def ask(cid: int, port: int, request: Dict[str, Any], *, listening_within: float = 0) -> Dict[str, Any]:
    """One request, one answer. ``listening_within``: seconds that the app may take until it listens; a request that was sent is never sent again. Raises AgentError."""
    data = json.dumps(request).encode()
    try:
        with _connect(cid, port, time.monotonic() + listening_within) as connection:
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


def logs(name: str, since: int) -> Dict[str, Any]:
    """What the app printed, from line ``since`` on: ``lines``, ``next``, ``dropped``. Raises AgentError, also when the image lets nobody read it."""
    answer = ask(find(name)["EnclaveCID"], CONTROL_PORT, {"op": "logs", "since": since})
    if "error" in answer:
        raise AgentError(
            "no-logs",
            "the enclave gives no logs",
            got=str(answer["error"])[:200],
            do="set logs = true in [app] of its enclave.toml, and build it again",
        )
    return answer


def _connect(cid: int, port: int, deadline: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        connection.settimeout(_TIMEOUT)
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


def wait_until_up(name: str, timeout: float) -> Dict[str, Any]:
    """Wait for the control server's "ok" and a running app; returns its answer and the enclave's. Raises AgentError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            enclave = find(name)
            state = ask(enclave["EnclaveCID"], CONTROL_PORT, {"op": "health"})
            if state.get("status") == "ok" and state.get("app") == "running":
                return {**state, "enclave": enclave}
            last = str(state)
        except AgentError as error:
            if error.slug == "not-running":
                raise  # run-enclave returned it as running: it has ended since, and does not come back
            last = str(error)
        if time.monotonic() > deadline:
            raise AgentError(
                "unhealthy",
                f"the enclave {name} did not become healthy in {timeout:.0f} s",
                got=last[:300],
                do="run it in debug mode and read its console",
            )
        time.sleep(0.2)
