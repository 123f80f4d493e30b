"""Checks 1–3: the document's form. Source: aws-nitro-enclaves-nsm-api:docs/attestation_process.md sections 2.2 and 3.2.

Where that text and documents signed by AWS differ, the signed documents decide: absent optional fields are null, public_key may be empty, user_data and nonce may have 1024 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nitrokit.core import cbor
from nitrokit.core.cose import ES384, CoseError, CoseSign1, parse_sign1
from nitrokit.errors import NitrokitError

MAX_DOCUMENT = 32 * 1024
MAX_CERTIFICATE = 1024
MAX_CABUNDLE = 16
MAX_OPTIONAL = 1024
MAX_PCRS = 32
PCR_LENGTHS = (32, 48, 64)
ENCLAVE_PCRS, TPM_PCRS = "pcrs", "nitrotpm_pcrs"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TIMESTAMP = 253_402_300_799_999  # the last millisecond of year 9999
_REQUIRED = {"module_id", "digest", "timestamp", "certificate", "cabundle"}
_OPTIONAL = {"public_key", "user_data", "nonce"}


class DocumentError(NitrokitError):
    """Bytes that are not an attestation document."""

    area = "document"


@dataclass(frozen=True)
class UnverifiedDocument:
    """What a document claims. Nobody has signed for it yet: verify before use. Fields as in the CBOR; PCR index → value."""

    module_id: str
    digest: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    is_tpm: bool
    sign1: CoseSign1


def parse_document(data: bytes, *, any_signature: bool = False) -> UnverifiedDocument:
    """Parse a document. Raises DocumentError.

    1. COSE_Sign1, tagged or not; protected header exactly ES384; empty unprotected map; 96-byte signature (``any_signature`` skips algorithm and size: for reading an unsigned
       document of an emulator, never for verification).
    2. Strict CBOR payload of 1 to 16384 bytes, definite or indefinite; the known keys alone.
    3. Every field's rule: ``module_id`` not empty; ``digest`` "SHA384"; ``timestamp`` in milliseconds; 1–32 PCRs of 32, 48 or 64 bytes; ``certificate`` and
       each of 1–16 ``cabundle`` entries 1–1024 bytes; optional fields null or at most 1024 bytes.
    """
    if len(data) > MAX_DOCUMENT:
        raise DocumentError("too-large", "document too large", got=f"{len(data)} bytes", expected=f"at most {MAX_DOCUMENT}")
    try:
        sign1 = parse_sign1(data, None if any_signature else (ES384,))
        payload = cbor.decode(sign1.payload)
    except (CoseError, cbor.CborError) as error:
        raise DocumentError(error.slug, error.what, got=error.got, expected=error.expected) from error
    if not isinstance(payload, dict) or not all(isinstance(key, str) for key in payload):
        raise DocumentError("not-a-map", "the payload is not a map with text keys", got=type(payload).__name__)
    is_tpm = TPM_PCRS in payload
    pcr_key = TPM_PCRS if is_tpm else ENCLAVE_PCRS
    _check_keys(set(payload), _REQUIRED | {pcr_key})
    return UnverifiedDocument(
        module_id=_text(payload, "module_id"),
        digest=_digest(payload),
        timestamp=_timestamp(payload),
        pcrs=_pcrs(payload[pcr_key]),
        certificate=_certificate(payload["certificate"], "certificate"),
        cabundle=_cabundle(payload["cabundle"]),
        public_key=_optional(payload, "public_key"),
        user_data=_optional(payload, "user_data"),
        nonce=_optional(payload, "nonce"),
        is_tpm=is_tpm,
        sign1=sign1,
    )


def _field_error(field: str, got: object, expected: str) -> DocumentError:
    return DocumentError("field", f"field {field} breaks its rule", got=str(got)[:120], expected=expected)


def _check_keys(keys: set[str], required: set[str]) -> None:
    if missing := required - keys:
        raise DocumentError(
            "missing-field", "a mandatory field is missing", got=", ".join(sorted(keys))[:200], expected=", ".join(sorted(missing))
        )
    if unknown := keys - required - _OPTIONAL:
        raise DocumentError(
            "unknown-field", "unknown field", got=", ".join(sorted(unknown))[:200], expected="the fields of an attestation document"
        )


def _text(payload: dict[str, Any], key: str) -> str:
    value = payload[key]
    if not isinstance(value, str) or not value:
        raise _field_error(key, repr(value), "text that is not empty")
    return value


def _digest(payload: dict[str, Any]) -> str:
    value = _text(payload, "digest")
    if value != "SHA384":
        raise _field_error("digest", value, "SHA384")
    return value


def _timestamp(payload: dict[str, Any]) -> datetime:
    value = payload["timestamp"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_TIMESTAMP:
        raise _field_error("timestamp", repr(value), "milliseconds since 1970, greater than 0")
    return _EPOCH + timedelta(milliseconds=value)


def _pcrs(value: object) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_PCRS:
        raise _field_error("pcrs", type(value).__name__, f"a map of 1 to {MAX_PCRS} entries")
    for index, pcr in value.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_PCRS:
            raise _field_error("pcrs", f"index {index!r}", f"0 to {MAX_PCRS - 1}")
        if not isinstance(pcr, bytes) or len(pcr) not in PCR_LENGTHS:
            raise _field_error("pcrs", f"PCR{index}: {pcr!r}", "32, 48 or 64 bytes")
    return dict(value)


def _certificate(value: object, field: str) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= MAX_CERTIFICATE:
        raise _field_error(field, len(value) if isinstance(value, bytes) else type(value).__name__, f"1 to {MAX_CERTIFICATE} bytes")
    return value


def _cabundle(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CABUNDLE:
        raise _field_error("cabundle", type(value).__name__, f"an array of 1 to {MAX_CABUNDLE} certificates")
    return tuple(_certificate(item, "cabundle") for item in value)


def _optional(payload: dict[str, Any], key: str) -> bytes | None:
    value = payload.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) > MAX_OPTIONAL:
        raise _field_error(key, len(value) if isinstance(value, bytes) else type(value).__name__, f"null, or at most {MAX_OPTIONAL} bytes")
    return value
