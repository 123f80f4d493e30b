"""KMS with Recipient: what KMS answers can be opened by the RSA key in our attestation document alone, and that key never leaves this process.

Source: KMS Developer Guide "Cryptographic attestation with AWS KMS"; aws-nitro-enclaves-sdk-c:docs/kms-apis/RecipientRequest.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.nsm import NsmProvider
from nitrokit.runtime import platform

_KEY_BITS = 2048
_EXTRA_AUTHORITIES = Path("/tmp/emulated-authorities.pem")


class RecipientKms:
    """KMS over boto3 for one caller. ``credentials``: access_key_id, secret_access_key, session_token of the parent's role: they open nothing without our attestation."""

    def __init__(self, region: str, credentials: Mapping[str, str], nsm: NsmProvider) -> None:
        import boto3
        from botocore.config import Config

        self._nsm = nsm
        self._client: Any = boto3.client(
            "kms",
            region_name=region,
            aws_access_key_id=credentials["access_key_id"],
            aws_secret_access_key=credentials["secret_access_key"],
            aws_session_token=credentials.get("session_token"),
            verify=_authorities(),
            config=Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 2}),
        )

    def decrypt(self, ciphertext: bytes, key_id: str) -> bytes:
        """Decrypt with a fresh RSA-2048 key and document. Raises botocore's ClientError, NsmError, CmsError."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        recipient = {"AttestationDocument": self._nsm.attestation(public_key=spki), "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
        answer = self._client.decrypt(CiphertextBlob=ciphertext, KeyId=key_id, Recipient=recipient)
        return open_enveloped_data(answer["CiphertextForRecipient"], key)


@functools.cache
def _authorities() -> str | None:
    """None: the image's own bundle. In the emulation: the emulated AWS's authority, got from the hypervisor, never from the parent."""
    pem = platform.extra_tls_authorities()
    if pem is None:
        return None
    _EXTRA_AUTHORITIES.write_text(pem)
    return str(_EXTRA_AUTHORITIES)
