"""The hypervisor's service for a guest (vsock CID 0, port 7000): NSM requests, countersignatures, the emulated AWS's TLS authority. The parent cannot reach it."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from nitrokit.core import cbor
from nitrokit.core.nsm import NsmError
from nitrokit.emulation.nitro.nsm import EmulatedNsm
from nitrokit.errors import NitrokitError

PORT = 7000
_MAX_REQUEST = 1 << 16


class GuestService:
    """Answers one enclave."""

    def __init__(self, nsm: EmulatedNsm, tls_authorities: str) -> None:
        self._nsm = nsm
        self._tls_authorities = tls_authorities

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection, in a thread of its own."""
        threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(30)
            while request := self._receive(connection):
                answer = self._answer(request)
                connection.sendall(struct.pack(">I", len(answer)) + answer)

    @staticmethod
    def _receive(connection: socket.socket) -> bytes:
        header = connection.recv(4, socket.MSG_WAITALL)
        if len(header) < 4 or (size := struct.unpack(">I", header)[0]) > _MAX_REQUEST:
            return b""
        return connection.recv(size, socket.MSG_WAITALL)

    def _answer(self, request: bytes) -> bytes:
        try:
            message: Any = cbor.decode(request)
            if message == "TlsAuthorities":
                return cbor.encode({"TlsAuthorities": {"pem": self._tls_authorities}})
            if isinstance(message, dict) and list(message) == ["Countersign"]:
                return cbor.encode({"Countersign": {"document": self._nsm.countersign(message["Countersign"]["document"])}})
        except NsmError as error:
            return cbor.encode({"Error": str(error)})
        except (NitrokitError, TypeError, KeyError):
            return cbor.encode({"Error": "InvalidOperation"})
        return self._nsm.answer(request)
