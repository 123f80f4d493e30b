"""What somebody outside wants of an enclave through its parent: an attestation document, or an answer of the app."""

from __future__ import annotations

import base64
import json
import os
from typing import Any, Dict, Tuple

from nitrokit.core.nonces import enclave_nonce
from nitrokit.host import launch
from nitrokit.host.config import CONTROL_PORT, AgentError
from nitrokit.host.enclave import ask
from nitrokit.host.imds import role_credentials

_APP_LISTENS_WITHIN = 60.0


def attest(name: str, nonce: str, nonce_for: str) -> Dict[str, Any]:
    """The enclave's document with ``nonce`` (base64); for "instance", with the one derived from it for this enclave here. Raises AgentError."""
    if nonce_for == "instance":
        nonce = base64.b64encode(enclave_nonce(*_nonce_base(nonce), name)).decode()
    found = launch.find(name)
    answer = ask(int(found["EnclaveCID"]), CONTROL_PORT, {"op": "attest", "nonce": nonce})
    if "document" not in answer:
        got = str(answer.get("error", answer))[:200]
        raise AgentError(
            "no-document",
            "the enclave gave no attestation document",
            got=got,
            expected="a document",
            do="correct what it names, or look at the enclave's health",
        )
    return {**answer, "enclave_id": found["EnclaveID"]}


def ask_app(name: str, port: int, text: str, *, with_credentials: bool) -> Dict[str, Any]:
    """Send the app a JSON object, and return its answer. Raises AgentError."""
    try:
        request = json.loads(text)
    except ValueError as error:
        raise AgentError("request", "the request on stdin is not JSON", got=str(error), do="pipe a JSON object into it") from error
    if not isinstance(request, dict):
        raise AgentError("request", "the request on stdin is not an object", got=type(request).__name__)
    if with_credentials:
        request["credentials"] = role_credentials()
    return ask(int(launch.find(name)["EnclaveCID"]), port, request, listening_within=_APP_LISTENS_WITHIN)


def _nonce_base(text: str) -> Tuple[bytes, str]:
    """The base that a whole fleet was given, and who we are among it."""
    try:
        return base64.b64decode(text, validate=True), os.environ["AWS_SSM_INSTANCE_ID"]
    except ValueError as error:
        raise AgentError("nonce", "the nonce is not base64", got=text[:80], expected="base64 of 16 to 64 bytes") from error
    except KeyError as error:
        raise AgentError(
            "no-instance-id",
            "the instance's id is not known",
            expected="AWS_SSM_INSTANCE_ID in the environment",
            do="run it by Run Command",
        ) from error
