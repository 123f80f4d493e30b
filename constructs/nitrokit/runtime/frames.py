"""Requests over vsock: a 4-byte big-endian length and a JSON object; one request, one answer, then close. Requests come from the parent: untrusted."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from nitrokit.errors import NitrokitError

MAX_FRAME = 1 << 20
_TIMEOUT = 60.0
_MAX_CONNECTIONS = 64
_ACCEPT_PAUSE = 0.1
Handler = Callable[[dict[str, Any]], dict[str, Any]]


class FrameError(NitrokitError):
    """A request that is not a frame."""

    area = "frame"


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes. Raises FrameError when the peer ends earlier."""
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 16))
        if not chunk:
            raise FrameError("truncated", "the peer ended in the middle of a frame", got=f"{len(data)} bytes", expected=f"{size} bytes")
        data += chunk
    return bytes(data)


def receive(connection: socket.socket, limit: int = MAX_FRAME) -> dict[str, Any]:
    """One frame's object, of at most ``limit`` bytes. Raises FrameError."""
    (size,) = struct.unpack(">I", receive_exactly(connection, 4))
    if size > limit:
        raise FrameError("too-large", "the frame is too large", got=size, expected=f"at most {limit} bytes")
    try:
        value = json.loads(receive_exactly(connection, size))
    except (ValueError, RecursionError) as error:
        raise FrameError("not-json", "the frame is not JSON", got=type(error).__name__) from error
    if not isinstance(value, dict):
        raise FrameError("not-json", "the frame is not a JSON object", got=type(value).__name__)
    return value


def send(connection: socket.socket, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    connection.sendall(struct.pack(">I", len(data)) + data)


def serve(listener: socket.socket, handler: Handler, limit: int = MAX_FRAME) -> None:
    """Answer requests of at most ``limit`` bytes for ever. An error is answered by its code and text; nothing else of it leaves."""
    serve_connections(listener, lambda connection: send(connection, _result(connection, handler, limit)))


def serve_connections(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    """Hand each connection to ``answer``, in a thread of its own, at most 64 at once; close it afterwards."""
    slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
    while True:
        slots.acquire()
        connection = accept(listener)
        try:
            threading.Thread(target=_answer, args=(connection, answer, slots), daemon=True).start()
        except RuntimeError:  # no thread to be had, in a moment without memory: this connection ends, the server does not
            connection.close()
            slots.release()
            time.sleep(_ACCEPT_PAUSE)


def accept(listener: socket.socket) -> socket.socket:
    """The next connection. A peer that gave up while it waited, or a moment without file descriptors, ends no server; a closed listener does (OSError)."""
    while True:
        try:
            return listener.accept()[0]
        except OSError:
            if listener.fileno() < 0:
                raise
            time.sleep(_ACCEPT_PAUSE)


def _answer(connection: socket.socket, answer: Callable[[socket.socket], None], slots: threading.BoundedSemaphore) -> None:
    try:
        with connection:
            connection.settimeout(_TIMEOUT)
            answer(connection)
    except OSError:
        pass  # the peer went away: nobody is left to tell
    finally:
        slots.release()


def _result(connection: socket.socket, handler: Handler, limit: int) -> dict[str, Any]:
    """The handler's answer, or its error. An OSError of the handler (a TLS failure is one) is answered too; one of this connection is the caller's."""
    try:
        request = receive(connection, limit)
    except FrameError as error:
        return _error(error.code, error.what)
    try:
        return handler(request)
    except NitrokitError as error:
        return _error(error.code, error.what)
    except Exception as error:
        return _error("internal", type(error).__name__)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
