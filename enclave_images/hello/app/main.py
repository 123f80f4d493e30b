"""The hello app: opens a data owner's secret by attestation, and answers a challenge that only its holder can answer."""

import base64
import hashlib
import hmac
from typing import Any

from nitrokit.runtime import Kms, frames, vsock
from nitrokit.runtime.client import EndpointError

PORT = 5000


def prove(request: dict[str, Any]) -> dict[str, Any]:
    """HMAC-SHA256 of the challenge under the secret; the secret itself never leaves the enclave."""
    kms = Kms(request["region"], request["credentials"])
    try:
        secret = kms.decrypt(base64.b64decode(request["ciphertext"]), request["key_id"])
    except EndpointError as error:
        return {"error": {"code": error.remote_code, "message": error.what}}
    proof = hmac.digest(secret, base64.b64decode(request["challenge"]), hashlib.sha256)
    print("answered a challenge under the data owner's secret", flush=True)  # the parent may read this: enclave.toml says logs = true
    return {"proof": base64.b64encode(proof).decode()}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """One operation: prove."""
    if request.get("op") != "prove":
        return {"error": {"code": "unknown-operation", "message": "expected: prove"}}
    return prove(request)


if __name__ == "__main__":
    frames.serve(vsock.listen(PORT), answer)
