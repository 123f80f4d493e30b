"""A local HTTP endpoint, so that an app in any language attests and calls KMS: ``POST $NITROKIT_ENDPOINT/v1/attest``, ``/v1/kms/<action>``, JSON both ways.

It listens on the loopback interface alone and wants the token that the app has in its environment: an app that can be made to fetch a URL of somebody else's choice does not send it.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nitrokit.core.nsm import NsmProvider
from nitrokit.errors import NitrokitError
from nitrokit.runtime.frames import MAX_FRAME, serve_connections

if TYPE_CHECKING:
    from nitrokit.runtime.operations import Operations

ADDRESS = ("127.0.0.1", 0)
_MAX_DIGITS = 7


def start(nsm: NsmProvider) -> dict[str, str]:
    """Serve from now on; returns what the app's environment gets. Raises OSError."""
    listener = socket.create_server(ADDRESS, backlog=128)
    token = os.urandom(16).hex()
    threading.Thread(target=serve_connections, args=(listener, _answerer(nsm, token)), daemon=True).start()
    return {"NITROKIT_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}", "NITROKIT_TOKEN": token}


def _answerer(nsm: NsmProvider, token: str) -> Callable[[socket.socket], None]:
    lock = threading.Lock()

    @functools.cache
    def handler() -> Any:
        # A slow import: an app that never asks does not wait for it.
        from nitrokit.runtime.operations import Operations

        return _handler(Operations(nsm), token)

    def answer(connection: socket.socket) -> None:
        with lock:  # one for all: it keeps answers and clients
            made = handler()
        made(connection, ("127.0.0.1", 0), None)

    return answer


def _handler(operations: Operations, token: str) -> Any:
    from hmac import compare_digest
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "nitrokit"
        sys_version = ""

        def do_POST(self) -> None:
            status, value = self._result()
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _result(self) -> tuple[int, dict[str, Any]]:
            given = self.headers.get("Authorization", "").encode()
            size = self.headers.get("Content-Length", "")
            if not compare_digest(given, f"Bearer {token}".encode()):
                self.close_connection = True
                return 401, _error("endpoint/token", "the token of NITROKIT_TOKEN is missing: Authorization: Bearer <token>")
            if not (size.isascii() and size.isdigit() and len(size) <= _MAX_DIGITS) or int(size) > MAX_FRAME:
                self.close_connection = True
                return 413, _error("endpoint/length", f"Content-Length must be there, at most {MAX_FRAME}")
            body = self.rfile.read(int(size))
            operation = operations.find(self.path)
            if operation is None:
                return 404, _error("endpoint/unknown", "no such operation")
            try:
                request = json.loads(body)
            except (ValueError, RecursionError):
                request = None
            return (
                _perform(operation, request) if isinstance(request, dict) else (400, _error("endpoint/json", "the body is no JSON object"))
            )

        def log_message(self, format: str, *_: Any) -> None:
            """Nothing: what an app asks for is its own affair."""

    return Handler


def _perform(operation: Any, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    try:
        return 200, operation(request)
    except NitrokitError as error:
        return 400, _error(error.code, str(error))
    except Exception as error:
        return 502, _kms_error(error)


def _kms_error(error: Exception) -> dict[str, Any]:
    """KMS's own code and message; of anything else its type alone."""
    response = getattr(error, "response", None)
    details = response.get("Error") if isinstance(response, Mapping) else None
    if isinstance(details, Mapping):
        return _error(str(details.get("Code")), str(details.get("Message")))
    return _error("endpoint/failed", type(error).__name__)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
