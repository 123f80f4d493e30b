"""KMS with Recipient: what KMS answers can be opened by the RSA key in our attestation document alone, and that key never leaves this process.

Sources: KMS Developer Guide "Cryptographic attestation with AWS KMS" (the five actions); KMS API Reference, RecipientInfo.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.nsm import NsmProvider
from nitrokit.errors import UsageError
from nitrokit.runtime import platform

_KEY_BITS = 2048
_KEY_LIFE = 300.0
"""Seconds that one RSA key serves: making one takes as long as many calls, and what it opened stays no safer with a key of its own."""
_EXTRA_AUTHORITIES = Path("/run/emulated-authorities.pem")
_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]+):[0-9]{12}:(key|alias)/.+")
ACTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "decrypt": ("Plaintext", ("CiphertextBlob", "KeyId", "EncryptionContext", "EncryptionAlgorithm", "GrantTokens")),
    "generate_data_key": ("Plaintext", ("KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext", "GrantTokens")),
    "generate_data_key_pair": ("PrivateKeyPlaintext", ("KeyId", "KeyPairSpec", "EncryptionContext", "GrantTokens")),
    "generate_random": ("Plaintext", ("NumberOfBytes", "CustomKeyStoreId")),
    "derive_shared_secret": ("SharedSecret", ("KeyId", "KeyAgreementAlgorithm", "PublicKey", "GrantTokens")),
}
"""Action → the field of its answer that comes enveloped, and the fields of its request (KMS API Reference)."""


class RecipientKms:
    """KMS for one caller. ``credentials``: access_key_id, secret_access_key, session_token of the parent's role: they open nothing without our attestation. Thread-safe."""

    def __init__(self, region: str, credentials: Mapping[str, str], nsm: NsmProvider) -> None:
        import botocore.session
        from botocore.config import Config

        self._nsm = nsm
        self._region = region
        self._lock = threading.Lock()
        self._key: tuple[float, rsa.RSAPrivateKey, bytes] | None = None
        self._client: Any = botocore.session.Session().create_client(
            "kms",
            region_name=region,  # botocore knows each Region's partition, and so the host's name
            aws_access_key_id=credentials["access_key_id"],
            aws_secret_access_key=credentials["secret_access_key"],
            aws_session_token=credentials.get("session_token"),
            verify=_authorities(),
            config=Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 4, "mode": "standard"}),
        )

    def call(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One of ACTIONS with the parameters of the KMS API; the enveloped field of the answer stands there in the clear. Raises UsageError, botocore's ClientError, NsmError, CmsError."""
        enveloped, known = ACTIONS[action]
        if unknown := set(parameters) - set(known):
            raise UsageError("kms-parameter", f"{action} does not take {', '.join(sorted(unknown))}", expected=", ".join(known))
        if "KeyId" in known:
            self._check_key(parameters.get("KeyId"))
        key, spki = self._recipient_key()
        recipient = {"AttestationDocument": self._nsm.attestation(public_key=spki), "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
        answer = getattr(self._client, action)(**parameters, Recipient=recipient)
        answer.pop("ResponseMetadata", None)
        answer[enveloped] = open_enveloped_data(answer.pop("CiphertextForRecipient"), key)
        return dict(answer)

    def _check_key(self, key_id: object) -> None:
        """Anything but an ARN (an id, an alias, none at all) means a key in the account of whoever's credentials these are, and they come from the parent: the attacker's own key would do.

        A key of another Region is not found there, which KMS says in other words. Raises UsageError.
        """
        found = _ARN.fullmatch(key_id) if isinstance(key_id, str) else None
        if found is None:
            raise UsageError(
                "kms-key", "KeyId is not the ARN of a key or alias", got=str(key_id)[:160], expected="arn:aws:kms:REGION:ACCOUNT:key/ID",
                do="name the ARN: any other name means a key of the account whose credentials the parent gave",
            )  # fmt: skip
        if found[2] != self._region:
            raise UsageError(
                "kms-region", "the key is of another Region", got=str(key_id)[:160], expected=self._region, do="name the key's Region"
            )

    def _recipient_key(self) -> tuple[rsa.RSAPrivateKey, bytes]:
        with self._lock:
            now = time.monotonic()
            if self._key is None or now - self._key[0] > _KEY_LIFE:
                key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
                spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
                self._key = now, key, spki
            return self._key[1], self._key[2]


@functools.cache
def _authorities() -> str | None:
    """None: botocore's own bundle. In the emulation: the emulated AWS's authority, got from the hypervisor, never from the parent."""
    pem = platform.extra_tls_authorities()
    if pem is None:
        return None
    _EXTRA_AUTHORITIES.write_text(pem)
    return str(_EXTRA_AUTHORITIES)
