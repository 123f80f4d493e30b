"""Verification: is the document authentic? The checks are numbered as in docs/attestation_verification.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from nitrokit.core.attestation.chain import ChainCache, validate_path
from nitrokit.core.attestation.document import UnverifiedDocument, parse_document
from nitrokit.core.attestation.path import VerificationError
from nitrokit.core.attestation.roots import TrustAnchor
from nitrokit.core.cose import CoseError, verify_sign1

_TOKEN = object()
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")


@dataclass(frozen=True)
class _Authentic:
    """What somebody whom the trust anchor stands for has signed. Fields as in the CBOR; ``certificate``: the leaf, DER."""

    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    certificate: bytes
    trust_anchor: TrustAnchor
    validation_time: datetime
    _token: object = field(repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self._token is not _TOKEN:
            raise TypeError("only verification makes verified documents")

    @property
    def region(self) -> str | None:
        """The AWS Region that the leaf's name tells (``<module id>.<region>.aws``, as on every document seen); None where it has another form."""
        try:
            names = x509.load_der_x509_certificate(self.certificate).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        except ValueError:
            return None
        prefix, name = f"{self.module_id}.", str(names[0].value) if names else ""
        region = name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""
        return region if _REGION.fullmatch(region) else None


@dataclass(frozen=True)
class _Enclave(_Authentic):
    @property
    def is_debug(self) -> bool:
        """A debug-mode enclave attests PCR0, PCR1 and PCR2 as zero; PCR3 and PCR4 stay (22 of 22 such documents in public repositories)."""
        return not any(any(self.pcrs.get(index, b"\0")) for index in (0, 1, 2))


@dataclass(frozen=True)
class VerifiedDocument(_Enclave):
    """An enclave's document, authentic at the time the verifier named. Not yet appraised: authentic is not accepted."""


@dataclass(frozen=True)
class ArchivedDocument(_Enclave):
    """An enclave's document that was authentic at its own timestamp. It says nothing about now, and whoever got hold of a leaf's key since could have made it."""


@dataclass(frozen=True)
class TpmDocument(_Authentic):
    """A NitroTPM's document: same form and root, another thing. An enclave's policy cannot be applied to it."""


def verify_document(data: bytes, *, trust_anchor: TrustAnchor, time: datetime, chain_cache: ChainCache | None = None) -> VerifiedDocument:
    """Verify an enclave's document at ``time`` (aware). Raises DocumentError (checks 1–3) or VerificationError (4–11).

    1–3. The form: ``parse_document``.
    4–9. The path from the trust anchor to the leaf: ``path``. ``chain_cache`` saves walking a path that held before.
    10. The COSE signature holds under the leaf's key, over the bytes received.
    11. The document is an enclave's, not a NitroTPM's.
    """
    document = parse_document(data)
    _verify(document, trust_anchor, time, chain_cache)
    return VerifiedDocument(*_enclave_fields(document), trust_anchor, time, _token=_TOKEN)


def verify_archived_document(data: bytes, *, trust_anchor: TrustAnchor, chain_cache: ChainCache | None = None) -> ArchivedDocument:
    """Verify an enclave's document at its own timestamp: evidence from an archive, whose certificates are long expired. Same checks, same errors."""
    document = parse_document(data)
    _verify(document, trust_anchor, document.timestamp, chain_cache)
    return ArchivedDocument(*_enclave_fields(document), trust_anchor, document.timestamp, _token=_TOKEN)


def verify_tpm_document(data: bytes, *, trust_anchor: TrustAnchor, time: datetime, chain_cache: ChainCache | None = None) -> TpmDocument:
    """Verify a NitroTPM's document by the same rules. Raises DocumentError or VerificationError."""
    document = parse_document(data)
    _verify(document, trust_anchor, time, chain_cache)
    if not document.is_tpm:
        raise VerificationError(
            "not-a-tpm", "this is an enclave's document, not a NitroTPM's", got=document.module_id[:80], expected="a NitroTPM's document"
        )
    return TpmDocument(*_fields(document), trust_anchor, time, _token=_TOKEN)


def _verify(document: UnverifiedDocument, trust_anchor: TrustAnchor, time: datetime, cache: ChainCache | None) -> None:
    if time.tzinfo is None:
        raise VerificationError("naive-time", "the validation time has no time zone", got=time.isoformat(), expected="an aware datetime")
    leaf = validate_path(document, trust_anchor, time, cache)
    try:
        verify_sign1(document.sign1, leaf.key)
    except CoseError as error:
        raise VerificationError("signature", "the document's signature does not hold", do="treat the document as forged") from error


_Fields = tuple[str, datetime, Mapping[int, bytes], bytes | None, bytes | None, bytes | None, bytes]


def _enclave_fields(document: UnverifiedDocument) -> _Fields:
    """Check 11."""
    if document.is_tpm:
        raise VerificationError(
            "not-an-enclave",
            "this is a NitroTPM's document, not an enclave's",
            got=document.module_id[:80],
            expected="an enclave's document",
        )
    return _fields(document)


def _fields(document: UnverifiedDocument) -> _Fields:
    one = document
    return (one.module_id, one.timestamp, one.pcrs, one.public_key, one.user_data, one.nonce, one.certificate)
