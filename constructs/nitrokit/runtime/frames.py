"""Requests over vsock: a 4-byte big-endian length and a JSON object; one request, one answer, then close. Requests come from the parent: untrusted."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from nitrokit.errors import NitrokitError

MAX_FRAME = 1 << 20
_TIMEOUT = 60.0
_MAX_CONNECTIONS = 64
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


def receive(connection: socket.socket) -> dict[str, Any]:
    """One frame's object. Raises FrameError."""
    (size,) = struct.unpack(">I", receive_exactly(connection, 4))
    if size > MAX_FRAME:
        raise FrameError("too-large", "the frame is too large", got=size, expected=f"at most {MAX_FRAME} bytes")
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


def serve(listener: socket.socket, handler: Handler) -> None:
    """Answer requests for ever, each in a thread of its own, at most 64 at once. An error is answered by its code and text; nothing else of it leaves."""
    slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
    while True:
        connection, _ = listener.accept()
        slots.acquire()
        threading.Thread(target=_answer, args=(connection, handler, slots), daemon=True).start()


def _answer(connection: socket.socket, handler: Handler, slots: threading.BoundedSemaphore) -> None:
    try:
        with connection:
            connection.settimeout(_TIMEOUT)
            send(connection, _result(connection, handler))
    except OSError:
        pass  # the peer went away: nobody is left to tell
    finally:
        slots.release()


def _result(connection: socket.socket, handler: Handler) -> dict[str, Any]:
    try:
        return handler(receive(connection))
    except NitrokitError as error:
        return {"error": {"code": error.code, "message": error.what}}
    except OSError:
        raise
    except Exception as error:
        return {"error": {"code": "internal", "message": type(error).__name__}}
