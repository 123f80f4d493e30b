"""Between the work-alikes inside the parent's sandbox and the hardware outside: one JSON line each way on a unix socket, with an open file where an EIF goes along."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.listeners import UnixListener

SOCKET_VARIABLE = "NITROKIT_HARDWARE"
Operation = Callable[[dict[str, Any], int | None], Any]


def call(request: dict[str, Any], descriptor: int | None = None) -> Any:
    """The client's side. Raises NitroError with the code that the hardware answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.environ[SOCKET_VARIABLE])
        line = json.dumps(request).encode() + b"\n"
        if descriptor is None:
            connection.sendall(line)
        else:
            socket.send_fds(connection, [line], [descriptor])
        answer = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
    if "error" in answer:
        raise NitroError(answer["error"]["code"], answer["error"]["message"])
    return answer["result"]


class ControlServer:
    """The hardware's side: ``operations`` by name."""

    def __init__(self, path: Path, operations: dict[str, Operation]) -> None:
        self._operations = operations
        self._listener = UnixListener(
            path, lambda connection: threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        )

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 1)
            try:
                answer = self._answer(data, descriptors[0] if descriptors else None)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            connection.sendall(json.dumps(answer).encode())

    def _answer(self, data: bytes, descriptor: int | None) -> dict[str, Any]:
        try:
            request = json.loads(data)
            return {"result": self._operations[request["op"]](request, descriptor)}
        except NitroError as error:
            return {"error": {"code": error.code, "message": str(error)}}
        except Exception as error:
            return {"error": {"code": "E00", "message": f"Unspecified: {type(error).__name__}: {error}"}}

    def close(self) -> None:
        self._listener.close()
