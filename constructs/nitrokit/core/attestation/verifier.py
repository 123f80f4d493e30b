"""Verification: is the document authentic? The checks are numbered as in docs/attestation_verification.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from nitrokit.core.attestation.document import UnverifiedDocument, parse_document
from nitrokit.core.attestation.path import VerificationError, validate_path
from nitrokit.core.attestation.roots import TrustAnchor
from nitrokit.core.cose import CoseError, verify_es384

_TOKEN = object()


@dataclass(frozen=True)
class _Verified:
    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    trust_anchor: TrustAnchor
    validation_time: datetime
    _token: object = field(repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self._token is not _TOKEN:
            raise TypeError("only verification makes verified documents")


@dataclass(frozen=True)
class VerifiedDocument(_Verified):
    """An enclave's document that AWS's hypervisor (or whom the trust anchor stands for) signed. Not yet appraised: authentic is not accepted."""

    @property
    def is_debug(self) -> bool:
        """A debug-mode enclave attests PCR0, PCR1 and PCR2 as zero; PCR3 and PCR4 stay."""
        return not any(any(self.pcrs.get(index, b"\0")) for index in (0, 1, 2))


@dataclass(frozen=True)
class TpmDocument(_Verified):
    """A NitroTPM's document: same form and root, another thing. An enclave's policy cannot be applied to it."""


def verify_document(data: bytes, *, trust_anchor: TrustAnchor, time: datetime) -> VerifiedDocument:
    """Verify an enclave's document at ``time`` (aware). Raises DocumentError (checks 1–3) or VerificationError (4–11).

    1–3. The form: ``parse_document``.
    4–9. The path from the trust anchor to the leaf: ``path.validate_path``.
    10. The COSE signature holds under the leaf's key, over the bytes received.
    11. The document is an enclave's, not a NitroTPM's.
    """
    document = _verify(data, trust_anchor, time)
    if document.is_tpm:
        raise VerificationError(
            "not-an-enclave",
            "this is a NitroTPM's document, not an enclave's",
            got=document.module_id[:80],
            expected="an enclave's document",
        )
    return VerifiedDocument(*_fields(document), trust_anchor, time, _token=_TOKEN)


def verify_tpm_document(data: bytes, *, trust_anchor: TrustAnchor, time: datetime) -> TpmDocument:
    """Verify a NitroTPM's document by the same rules. Raises DocumentError or VerificationError."""
    document = _verify(data, trust_anchor, time)
    if not document.is_tpm:
        raise VerificationError(
            "not-a-tpm", "this is an enclave's document, not a NitroTPM's", got=document.module_id[:80], expected="a NitroTPM's document"
        )
    return TpmDocument(*_fields(document), trust_anchor, time, _token=_TOKEN)


def _verify(data: bytes, trust_anchor: TrustAnchor, time: datetime) -> UnverifiedDocument:
    if time.tzinfo is None:
        raise VerificationError("naive-time", "the validation time has no time zone", got=time.isoformat(), expected="an aware datetime")
    document = parse_document(data)
    key = validate_path(document.certificate, document.cabundle, trust_anchor, time)
    try:
        verify_es384(document.sign1, key)
    except CoseError as error:
        raise VerificationError("signature", "the document's signature does not hold", do="treat the document as forged") from error
    return document


def _fields(document: UnverifiedDocument) -> tuple[str, datetime, Mapping[int, bytes], bytes | None, bytes | None, bytes | None]:
    return (document.module_id, document.timestamp, document.pcrs, document.public_key, document.user_data, document.nonce)
