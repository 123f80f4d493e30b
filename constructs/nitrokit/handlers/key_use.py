"""CloudTrail's events of KMS: who opened data, with which enclave.

Sources: KMS Developer Guide "Monitoring requests for attested environments" (``additionalEventData.recipient``, present only where the document was valid). In events seen in public the
PCRs are base64 of 48 bytes (64 characters), where the guide's placeholders suggest hex: both are read.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

OPENING = ("Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair", "ReEncrypt", "Decapsulate")
"""Actions that give somebody data or a key."""
_HEX, _BASE64 = re.compile(r"[0-9a-fA-F]{96}"), re.compile(r"[A-Za-z0-9+/]{64}")
_DIGEST, _PCR = "attestationDocumentEnclaveImageDigest", re.compile(r"attestationDocumentEnclavePCR([0-9]+)")


@dataclass(frozen=True)
class KeyUse:
    """One event. ``error``: None where it was allowed; ``module_id``, ``pcrs``: of the attestation document, where there was a valid one."""

    event_id: str
    time: datetime
    action: str
    principal: str
    source_ip: str
    key: str
    error: str | None = None
    module_id: str | None = None
    pcrs: Mapping[int, bytes] = field(default_factory=dict)
    encryption_context: Mapping[str, str] = field(default_factory=dict)

    @property
    def attested(self) -> bool:
        return self.module_id is not None

    @property
    def instance_id(self) -> str | None:
        return self.module_id.split("-enc")[0] if self.module_id else None

    @property
    def is_debug(self) -> bool:
        """PCR0, PCR1 and PCR2 are zero."""
        return self.attested and not any(any(self.pcrs.get(index, b"\1")) for index in (0, 1, 2))


def parse_event(event: Mapping[str, Any], key: str) -> KeyUse | None:
    """An event of the key with this ARN; None for one that opens nothing."""
    if event.get("eventSource") != "kms.amazonaws.com" or event.get("eventName") not in OPENING:
        return None
    recipient = (event.get("additionalEventData") or {}).get("recipient") or {}
    context = (event.get("requestParameters") or {}).get("encryptionContext") or {}
    return KeyUse(
        event_id=str(event["eventID"]),
        time=datetime.fromisoformat(str(event["eventTime"]).replace("Z", "+00:00")),
        action=str(event["eventName"]),
        principal=_principal(event.get("userIdentity") or {}),
        source_ip=str(event.get("sourceIPAddress", "")),
        key=key,
        error=event.get("errorCode"),
        module_id=recipient.get("attestationDocumentModuleId"),
        pcrs=_pcrs(recipient),
        encryption_context={str(name): str(value) for name, value in context.items()},
    )


def _principal(identity: Mapping[str, Any]) -> str:
    return str(identity.get("arn") or identity.get("invokedBy") or identity.get("principalId") or "?")


def _pcrs(recipient: Mapping[str, Any]) -> dict[int, bytes]:
    found = {}
    for name, value in recipient.items():
        numbered = _PCR.fullmatch(name)
        index = 0 if name == _DIGEST else int(numbered[1]) if numbered else None
        pcr = _pcr(value)
        if index is not None and pcr is not None:
            found[index] = pcr
    return found


def _pcr(text: object) -> bytes | None:
    if isinstance(text, str) and _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if isinstance(text, str) and _BASE64.fullmatch(text):
        return base64.b64decode(text)
    return None
