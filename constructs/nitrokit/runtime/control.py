"""The control server (vsock port 5001): health, and attestation documents for whoever asks with a nonce."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from nitrokit.core.nsm import NsmProvider
from nitrokit.runtime.frames import FrameError
from nitrokit.runtime.logs import LogBuffer

PORT = 5001
MAX_NONCE = 512
MAX_REQUEST = 4096
"""Bytes. JSON takes up many times its size when it is read, and the parent may send 64 requests at once."""
MAX_WAIT = 30


def handler(
    nsm: NsmProvider, app_state: Callable[[], dict[str, Any]], logs: LogBuffer | None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``{"op": "health"}``, ``{"op": "attest", "nonce": base64}`` and ``{"op": "logs", "since": number, "wait": seconds}``, the latter where enclave.toml lets the parent read them.

    A document carries the nonce alone: no user data or key that the parent could choose.
    """

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request.get("op"):
            case "health":
                return {"status": "ok", **app_state()}
            case "attest":
                return {"document": base64.b64encode(nsm.attestation(nonce=_nonce(request.get("nonce")))).decode()}
            case "logs":
                return _logs(logs, request.get("since", 0), request.get("wait", 0))
        raise FrameError("unknown-operation", "unknown operation", got=str(request.get("op"))[:40], expected="health, attest or logs")

    return answer


def _logs(logs: LogBuffer | None, since: object, wait: object) -> dict[str, Any]:
    if logs is None:
        raise FrameError("no-logs", "this enclave keeps its output to itself", expected="logs = true in [app] of its enclave.toml")
    if type(since) is not int or since < 0:
        raise FrameError("since", "since is not the number of a line", got=repr(since)[:40], expected="0 or more")
    if not isinstance(wait, (int, float)) or wait is True or not 0 <= wait <= MAX_WAIT:
        raise FrameError("wait", "wait is not a number of seconds", got=repr(wait)[:40], expected=f"0 to {MAX_WAIT}")
    return logs.read(since, wait)


def _nonce(text: object) -> bytes:
    try:
        nonce = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        nonce = b""
    if not 1 <= len(nonce) <= MAX_NONCE:
        raise FrameError("nonce", "the nonce is not base64 of 1 to 512 bytes")
    return nonce
