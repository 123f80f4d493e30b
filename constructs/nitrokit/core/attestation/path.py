"""Checks 4–9: path validation, walked explicitly from the pinned root to the leaf (RFC 5280 section 6, in the profile of the Nitro PKI).

A generic web-PKI validator demands SAN, SKI or EKU and refuses these certificates. CRLs are not used (aws-nitro-enclaves-nsm-api:docs/attestation_process.md section 3.2.3).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from nitrokit.core.attestation.roots import TrustAnchor
from nitrokit.errors import NitrokitError

_T = TypeVar("_T", bound=x509.ExtensionType)
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
}


class VerificationError(NitrokitError):
    """A document that is not authentic: its path or its signature does not hold."""

    area = "verification"


@dataclass(frozen=True)
class ValidatedCertificate:
    """The end of a validated path: the certificate, its key, and when the whole path up to it is valid (both ends included)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    not_before: datetime
    not_after: datetime


def check_anchor(cabundle: tuple[bytes, ...], trust_anchor: TrustAnchor) -> None:
    """4. The first certificate of the bundle is the trust anchor, byte for byte. Raises VerificationError."""
    if not hmac.compare_digest(cabundle[0], trust_anchor.der):
        raise VerificationError(
            "root",
            "the document's root is not the trust anchor",
            got=f"{len(cabundle)} certificates from another root",
            expected=f"{trust_anchor.name} (SHA-256 {trust_anchor.sha256})",
        )


def validate_cas(cabundle: tuple[bytes, ...], time: datetime) -> ValidatedCertificate:
    """Walk from the anchor to the leaf's issuer. Raises VerificationError.

    5. Each certificate but the anchor names its predecessor as issuer and is signed by its key, ECDSA with SHA-384.
    6. Each is valid at ``time``, both ends included, the anchor too.
    7. Each is a CA with keyCertSign, and no path below one is longer than its pathLen.
    8. Every key is on P-384.
    9. No critical extension that we do not understand, no name constraints.
    """
    path = None
    for number, der in enumerate(cabundle):
        path = _next(der, number, path, time)
        _check_ca(path.certificate, number, below=len(cabundle) - 1 - number)
    assert path is not None  # a parsed document has at least one CA
    return path


def validate_leaf(der: bytes, number: int, issuer: ValidatedCertificate, time: datetime) -> ValidatedCertificate:
    """Checks 5–9 for the leaf: no CA, digitalSignature, no pathLen. ``number``: its place in the path. Raises VerificationError."""
    leaf = _next(der, number, issuer, time)
    usage = _extension(leaf.certificate, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise VerificationError("leaf-usage", "the leaf may not sign documents", expected="keyUsage digitalSignature")
    constraints = _extension(leaf.certificate, x509.BasicConstraints)
    if constraints is not None and (constraints.ca or constraints.path_length is not None):
        raise VerificationError("leaf-is-ca", "the leaf is a CA", expected="an end entity")
    return leaf


def _next(der: bytes, number: int, issuer: ValidatedCertificate | None, time: datetime) -> ValidatedCertificate:
    certificate = _load(der, number)
    if issuer is not None:
        # The signature first: what a certificate says is looked into only when somebody trusted has signed it.
        _check_link(issuer.certificate, certificate, number)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= time <= end:
        raise VerificationError(
            "validity",
            f"certificate {number} is not valid at the validation time",
            got=time.isoformat(),
            expected=f"{start.isoformat()} to {end.isoformat()}",
            do="ask for a fresh document (a leaf lives three hours); verify archived evidence as such, at its own time",
        )
    _check_extensions(certificate, number)
    key = _key(certificate, number)
    if issuer is None:
        return ValidatedCertificate(certificate, key, start, end)
    return ValidatedCertificate(certificate, key, max(start, issuer.not_before), min(end, issuer.not_after))


def _load(der: bytes, number: int) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except Exception as error:  # cryptography's parser has several, and warnings that a caller may have made errors
        raise VerificationError("certificate", f"certificate {number} is malformed", got=str(error)[:120]) from error


def _key(certificate: x509.Certificate, number: int) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except Exception as error:  # cryptography has several for keys it does not know
        raise VerificationError("key", f"certificate {number} has an unusable key", got=str(error)[:120], expected="P-384") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise VerificationError("key", f"certificate {number} has another kind of key", got=type(key).__name__, expected="P-384")
    return key


def _check_link(issuer: x509.Certificate, certificate: x509.Certificate, number: int) -> None:
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise VerificationError(
            "algorithm",
            f"certificate {number} is signed by another algorithm",
            got=certificate.signature_algorithm_oid.dotted_string,
            expected="ecdsa-with-SHA384",
        )
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature as error:
        raise VerificationError(
            "certificate-signature", f"the signature on certificate {number} does not hold", do="treat the document as forged"
        ) from error
    except (ValueError, TypeError) as error:  # the names differ, or the algorithm inside is not the one outside (RFC 5280 section 4.1.1.2)
        raise VerificationError(
            "issuer",
            f"certificate {number} is not issued by certificate {number - 1}",
            got=str(error)[:160],
            expected="the predecessor's subject as issuer, one algorithm inside and outside",
        ) from error


def _check_extensions(certificate: x509.Certificate, number: int) -> None:
    try:
        extensions = certificate.extensions
    except Exception as error:  # as for _load
        raise VerificationError("certificate", f"certificate {number} has malformed extensions", got=str(error)[:120]) from error
    for extension in extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS or (extension.critical and extension.oid not in _UNDERSTOOD):
            raise VerificationError(
                "extension", f"certificate {number} has an extension that we do not process", got=extension.oid.dotted_string
            )


def _check_ca(certificate: x509.Certificate, number: int, *, below: int) -> None:
    """``below``: how many CAs stand between this certificate and the leaf."""
    constraints, usage = _extension(certificate, x509.BasicConstraints), _extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise VerificationError(
            "not-a-ca", f"certificate {number} may not issue certificates", expected="basicConstraints CA and keyUsage keyCertSign"
        )
    if constraints.path_length is not None and below > constraints.path_length:
        raise VerificationError(
            "path-length", f"the path below certificate {number} is too long", got=below, expected=f"at most {constraints.path_length}"
        )


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
