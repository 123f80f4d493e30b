"""The two attested KMS actions that moto lacks: data-key pairs and ECDH (KMS API Reference, GenerateDataKeyPair and DeriveSharedSecret). moto keeps the keys and encrypts."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_der_public_key

from nitrokit.emulation.cloud.kms_error import KmsError

_PAIRS: Mapping[str, Callable[[], Any]] = {
    "RSA_2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA_3072": lambda: rsa.generate_private_key(65537, 3072),
    "RSA_4096": lambda: rsa.generate_private_key(65537, 4096),
    "ECC_NIST_P256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ECC_NIST_P384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ECC_NIST_P521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ECC_SECG_P256K1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ECC_NIST_EDWARDS25519": ed25519.Ed25519PrivateKey.generate,
}


def generate_data_key_pair(request: Mapping[str, Any], key: Any, forward: Callable[[str, bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
    """A pair whose private key is encrypted under ``key`` by ``forward`` (a target and a body, answered by status and body). Raises KmsError."""
    if key.key_spec != "SYMMETRIC_DEFAULT":
        raise KmsError("InvalidKeyUsageException", f"{key.arn} is no symmetric key for encryption")
    spec = str(request.get("KeyPairSpec"))
    if spec not in _PAIRS:
        raise KmsError("ValidationException", f"KeyPairSpec must be one of {', '.join(_PAIRS)}")
    private = _PAIRS[spec]()
    plaintext = base64.b64encode(private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()
    context = {"EncryptionContext": request["EncryptionContext"]} if request.get("EncryptionContext") else {}
    status, body = forward("TrentService.Encrypt", json.dumps({"KeyId": key.id, "Plaintext": plaintext, **context}).encode())
    if status != 200:
        return status, body
    answer = {
        "KeyId": key.arn,
        "KeyPairSpec": spec,
        "PrivateKeyCiphertextBlob": json.loads(body)["CiphertextBlob"],
        "PrivateKeyPlaintext": plaintext,
        "PublicKey": base64.b64encode(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode(),
    }
    return 200, json.dumps(answer).encode()


def derive_shared_secret(request: Mapping[str, Any], key: Any) -> tuple[int, bytes]:
    """ECDH between ``key`` and the request's public key. Raises KmsError."""
    if key.key_usage != "KEY_AGREEMENT":
        raise KmsError("InvalidKeyUsageException", f"{key.arn} is not for key agreement")
    if request.get("KeyAgreementAlgorithm") != "ECDH":
        raise KmsError("ValidationException", "KeyAgreementAlgorithm must be ECDH")
    try:
        public = load_der_public_key(base64.b64decode(request["PublicKey"], validate=True))
        secret = key.private_key.private_key.exchange(ec.ECDH(), public)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise KmsError("ValidationException", f"PublicKey is no DER SubjectPublicKeyInfo on the key's curve: {error}") from error
    answer = {
        "KeyId": key.arn,
        "SharedSecret": base64.b64encode(secret).decode(),
        "KeyAgreementAlgorithm": "ECDH",
        "KeyOrigin": key.origin,
    }
    return 200, json.dumps(answer).encode()
