"""What the endpoint does: attestation and the five KMS actions that take it, from JSON to JSON, bytes in base64."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nitrokit.core.nsm import NsmProvider
from nitrokit.errors import UsageError
from nitrokit.runtime.data_keys import AnswerCache, CachePolicy
from nitrokit.runtime.frames import FrameError

_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")
_MAX_USER_DATA, _MAX_PUBLIC_KEY = 512, 1024
_BYTES = {"CiphertextBlob", "PublicKey"}
_MAX_CLIENTS = 32


class Operations:
    """One for the enclave: clients and kept answers are shared by all of the app's processes."""

    def __init__(self, nsm: NsmProvider) -> None:
        self._nsm = nsm
        self._cache = AnswerCache()
        self._clients: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()

    def find(self, path: str) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """``/v1/attest``, or ``/v1/kms/<action>``; None for anything else."""
        if path == "/v1/attest":
            return self.attest
        action = path.removeprefix("/v1/kms/")
        from nitrokit.runtime.kms import ACTIONS

        return (lambda request: self.kms(action, request)) if path.startswith("/v1/kms/") and action in ACTIONS else None

    def attest(self, request: dict[str, Any]) -> dict[str, Any]:
        """``user_data``, ``nonce``, ``public_key``: base64, each optional → ``document``. Raises FrameError, NsmError."""
        _refuse_unknown(request, {"user_data", "nonce", "public_key"})
        limits = {"user_data": _MAX_USER_DATA, "nonce": _MAX_USER_DATA, "public_key": _MAX_PUBLIC_KEY}
        given = {name: _bytes(request[name], name, limit) for name, limit in limits.items() if request.get(name) is not None}
        return {"document": base64.b64encode(self._nsm.attestation(**given)).decode()}

    def kms(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """``region``, ``credentials``, ``parameters`` as the KMS API has them (bytes in base64), and ``cache``. Raises FrameError, UsageError, botocore's errors, NsmError, CmsError."""
        _refuse_unknown(request, {"region", "credentials", "parameters", "cache"})
        region, credentials, parameters = request.get("region"), request.get("credentials"), request.get("parameters", {})
        if not isinstance(region, str) or not isinstance(parameters, dict):
            raise FrameError("request", "region or parameters are missing or of the wrong type", expected="a text and an object")
        values = _credentials(credentials)
        plain = {name: _bytes(value, name, 1 << 20) if name in _BYTES else value for name, value in parameters.items()}

        def ask() -> dict[str, Any]:
            return _encoded(self._client(region, values).call(action, plain))

        if request.get("cache") is None:
            return ask()
        if action == "generate_random":
            raise UsageError("kms-cache", "random bytes are never kept", expected="no cache")
        key = (action, region, tuple(values.items()), repr(sorted(parameters.items())))
        return self._cache.get(key, CachePolicy.parse(request["cache"]), ask)

    def _client(self, region: str, credentials: Mapping[str, str]) -> Any:
        from nitrokit.runtime.kms import RecipientKms

        key = (region, *credentials.values())
        with self._lock:
            if key not in self._clients:
                while len(self._clients) >= _MAX_CLIENTS:  # credentials are renewed every few hours: old ones are not needed
                    self._clients.pop(next(iter(self._clients)))
                self._clients[key] = RecipientKms(region, credentials, self._nsm)
            return self._clients[key]


def _credentials(value: object) -> dict[str, str]:
    given = value if isinstance(value, dict) else {}
    found = {name: given[name] for name in _CREDENTIALS if isinstance(given.get(name), str)}
    if not {"access_key_id", "secret_access_key"} <= set(found):
        raise FrameError("credentials", "credentials are missing", expected=", ".join(_CREDENTIALS))
    return found


def _bytes(value: object, name: str, limit: int) -> bytes:
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or len(data) > limit:
        raise FrameError("base64", f"{name} is not base64", expected=f"at most {limit} bytes")
    return data


def _encoded(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in answer.items()}


def _refuse_unknown(request: Mapping[str, Any], known: set[str]) -> None:
    if unknown := set(request) - known:
        raise UsageError("request", f"unknown fields: {', '.join(sorted(unknown))[:80]}", expected=", ".join(sorted(known)))
