"""A cache of validated paths, and a path told for people."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from nitrokit.core.attestation.document import UnverifiedDocument
from nitrokit.core.attestation.path import ValidatedCertificate, VerificationError, check_anchor, validate_cas, validate_leaf
from nitrokit.core.attestation.roots import TrustAnchor

_Key = tuple[str, bytes, tuple[bytes, ...]]


class ChainCache:
    """Validated paths, so that the documents of one fleet cost the leaf and the document's own signature, and those of one enclave the latter alone.

    Keyed by the certificates' bytes; an entry serves only while its whole path is valid; the least used is dropped. Only paths that held are kept, so a stranger cannot fill it.
    May be shared by threads.
    """

    def __init__(self, max_entries: int = 256) -> None:
        self._max = max_entries
        self._entries: OrderedDict[_Key, ValidatedCertificate] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: _Key, time: datetime, validate: Callable[[], ValidatedCertificate]) -> ValidatedCertificate:
        """The entry where it is valid at ``time``, else what ``validate`` finds. Raises what ``validate`` raises."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None and found.not_before <= time <= found.not_after:
                self._entries.move_to_end(key)
                return found
        validated = validate()  # outside the lock: others need not wait for it
        with self._lock:
            self._entries[key] = validated
            self._entries.move_to_end(key)
            while len(self._entries) > self._max:
                self._entries.popitem(last=False)
        return validated


def validate_path(
    document: UnverifiedDocument, trust_anchor: TrustAnchor, time: datetime, cache: ChainCache | None
) -> ValidatedCertificate:
    """Checks 4–9 (``path``): from the anchor to the leaf, at ``time``. Raises VerificationError."""
    cabundle, certificate = document.cabundle, document.certificate
    check_anchor(cabundle, trust_anchor)
    if cache is None:
        return validate_leaf(certificate, len(cabundle), validate_cas(cabundle, time), time)

    def from_cas() -> ValidatedCertificate:
        issuer = cache.get(("cas", b"", cabundle), time, lambda: validate_cas(cabundle, time))
        return validate_leaf(certificate, len(cabundle), issuer, time)

    return cache.get(("leaf", certificate, cabundle), time, from_cas)


@dataclass(frozen=True)
class CertificateSummary:
    """One certificate of a path, for people: what it says of itself, whoever signed it."""

    subject: str
    not_before: datetime
    not_after: datetime
    sha256: str


def summarize_chain(document: UnverifiedDocument) -> list[CertificateSummary]:
    """The certificates of a document, root first, leaf last. Nothing is verified. Raises VerificationError for a malformed certificate."""
    return [_summary(der, number) for number, der in enumerate([*document.cabundle, document.certificate])]


def _summary(der: bytes, number: int) -> CertificateSummary:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        fingerprint = certificate.fingerprint(SHA256()).hex()
        return CertificateSummary(
            str(names[0].value) if names else "(no name)", certificate.not_valid_before_utc, certificate.not_valid_after_utc, fingerprint
        )
    except Exception as error:  # cryptography's parser has several
        raise VerificationError("certificate", f"certificate {number} is malformed", got=str(error)[:120]) from error
