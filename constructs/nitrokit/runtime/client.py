"""For apps in Python: ``from nitrokit.runtime import attest, kms``. Standard library only; init does the work (``endpoint``), and keeps the RSA keys."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.errors import EnvironmentProblem, NitrokitError

_TIMEOUT = 90.0
_BYTES = ("Plaintext", "CiphertextBlob", "PrivateKeyPlaintext", "PrivateKeyCiphertextBlob", "PublicKey", "SharedSecret")


class EndpointError(NitrokitError):
    """What the endpoint or KMS refused. ``remote_code``: its code, e.g. AccessDeniedException."""

    area = "endpoint"

    def __init__(self, remote_code: str, message: str) -> None:
        self.remote_code = remote_code
        super().__init__("refused", message, got=remote_code)


class NoEndpoint(EnvironmentProblem):
    """This process was not started by an enclave's init."""

    area = "endpoint"


@dataclass(frozen=True)
class DataKey:
    """``plaintext`` is for this enclave alone; ``ciphertext`` may be kept anywhere."""

    plaintext: bytes
    ciphertext: bytes
    key_id: str


@dataclass(frozen=True)
class DataKeyPair:
    """DER: ``private_key`` PKCS #8, for this enclave alone; ``public_key`` SubjectPublicKeyInfo."""

    private_key: bytes
    private_key_ciphertext: bytes
    public_key: bytes
    key_id: str


def attest(*, nonce: bytes | None = None, user_data: bytes | None = None, public_key: bytes | None = None) -> bytes:
    """A fresh attestation document (COSE_Sign1). Nonce and user data: at most 512 bytes, public key: 1024. Raises EndpointError, NoEndpoint."""
    given = {"nonce": nonce, "user_data": user_data, "public_key": public_key}
    request = {name: base64.b64encode(value).decode() for name, value in given.items() if value is not None}
    return base64.b64decode(_post("/v1/attest", request)["document"])


class Kms:
    """The five KMS actions that attest. ``credentials``: access_key_id, secret_access_key, session_token; ``cache``: ``{"max_age": seconds, "max_uses": number}``, None: never.

    ``options`` of each are further parameters of the KMS API (EncryptionContext, GrantTokens …). All raise EndpointError, NoEndpoint.
    """

    def __init__(self, region: str, credentials: Mapping[str, str], *, cache: Mapping[str, float] | None = None) -> None:
        self._region, self._credentials, self._cache = region, dict(credentials), cache

    def decrypt(self, ciphertext: bytes, key_id: str, **options: Any) -> bytes:
        return bytes(
            self._call("decrypt", {"CiphertextBlob": base64.b64encode(ciphertext).decode(), "KeyId": key_id, **options})["Plaintext"]
        )

    def generate_data_key(self, key_id: str, **options: Any) -> DataKey:
        """AES-256 unless ``KeySpec`` or ``NumberOfBytes`` says otherwise."""
        sized = {} if "NumberOfBytes" in options else {"KeySpec": "AES_256"}
        answer = self._call("generate_data_key", {"KeyId": key_id, **sized, **options})
        return DataKey(answer["Plaintext"], answer["CiphertextBlob"], answer["KeyId"])

    def generate_data_key_pair(self, key_id: str, spec: str = "ECC_NIST_P384", **options: Any) -> DataKeyPair:
        answer = self._call("generate_data_key_pair", {"KeyId": key_id, "KeyPairSpec": spec, **options})
        return DataKeyPair(answer["PrivateKeyPlaintext"], answer["PrivateKeyCiphertextBlob"], answer["PublicKey"], answer["KeyId"])

    def generate_random(self, size: int) -> bytes:
        return bytes(self._call("generate_random", {"NumberOfBytes": size}, keep=False)["Plaintext"])

    def derive_shared_secret(self, key_id: str, public_key: bytes, **options: Any) -> bytes:
        """ECDH between the KMS key and ``public_key`` (DER SubjectPublicKeyInfo)."""
        given = {"KeyId": key_id, "KeyAgreementAlgorithm": "ECDH", "PublicKey": base64.b64encode(public_key).decode()}
        return bytes(self._call("derive_shared_secret", {**given, **options})["SharedSecret"])

    def _call(self, action: str, parameters: Mapping[str, Any], *, keep: bool = True) -> dict[str, Any]:
        request = {"region": self._region, "credentials": self._credentials, "parameters": parameters}
        answer = _post(f"/v1/kms/{action}", {**request, "cache": self._cache if keep else None})
        return {name: base64.b64decode(value) if name in _BYTES else value for name, value in answer.items()}


def _post(path: str, value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        endpoint, token = os.environ["NITROKIT_ENDPOINT"], os.environ["NITROKIT_TOKEN"]
    except KeyError as error:
        raise NoEndpoint(
            "missing", "no enclave here", got=f"{error} is not set", expected="a process that an enclave's init started"
        ) from error
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(endpoint + path, json.dumps(value).encode(), headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        details = json.load(error).get("error", {})
        raise EndpointError(str(details.get("code")), str(details.get("message"))) from error
    except OSError as error:
        raise NoEndpoint("unreachable", "the endpoint does not answer", got=str(error), expected=endpoint) from error
