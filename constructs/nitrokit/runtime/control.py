"""The control server (vsock port 5001): health, and attestation documents for whoever asks with a nonce."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from nitrokit.core.nsm import NsmProvider
from nitrokit.runtime.frames import FrameError

PORT = 5001
MAX_NONCE = 512


def handler(nsm: NsmProvider, app_state: Callable[[], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``{"op": "health"}`` and ``{"op": "attest", "nonce": base64}``. A document carries the nonce alone: no user data or key that the parent could choose."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request.get("op"):
            case "health":
                return {"status": "ok", **app_state()}
            case "attest":
                return {"document": base64.b64encode(nsm.attestation(nonce=_nonce(request.get("nonce")))).decode()}
        raise FrameError("unknown-operation", "unknown operation", got=str(request.get("op"))[:40], expected="health or attest")

    return answer


def _nonce(text: object) -> bytes:
    try:
        nonce = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        nonce = b""
    if not 1 <= len(nonce) <= MAX_NONCE:
        raise FrameError("nonce", "the nonce is not base64 of 1 to 512 bytes")
    return nonce
