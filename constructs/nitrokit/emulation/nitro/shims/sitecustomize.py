"""AF_VSOCK for programs of an emulated parent: Python's own sockets, led to the unix sockets of the emulated hypervisor. On PYTHONPATH of the emulated instance alone."""

import os
import socket
from typing import Any

_REAL = socket.socket
_FOLDER = os.environ.get("NITROKIT_VSOCK_DIR", "")
_PARENT = 3


class _VsockSocket(_REAL):
    """A socket whose AF_VSOCK addresses are files."""

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
        self._vsock = family == socket.AF_VSOCK and fileno is None
        super().__init__(socket.AF_UNIX if self._vsock else family, type, proto, fileno)

    def connect(self, address: Any) -> None:
        if not self._vsock:
            super().connect(address)
            return
        cid, port = address
        direct = f"{_FOLDER}/{cid}/{port}"
        if os.path.exists(direct):
            super().connect(direct)
            return
        super().connect(f"{_FOLDER}/{cid}.sock")
        self.sendall(b"CONNECT %d\n" % port)
        answer = b""
        while not answer.endswith(b"\n"):
            byte = self.recv(1)
            if not byte:
                raise ConnectionResetError("vsock: refused")
            answer += byte
        if not answer.startswith(b"OK "):
            raise ConnectionResetError("vsock: refused")

    def bind(self, address: Any) -> None:
        super().bind(f"{_FOLDER}/{_PARENT}/{address[1]}" if self._vsock else address)


if _FOLDER:
    socket.socket = _VsockSocket  # type: ignore[misc]
