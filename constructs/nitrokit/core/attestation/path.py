"""Checks 4–9: path validation, walked explicitly from the pinned root to the leaf (RFC 5280 section 6, in the profile of the Nitro PKI).

A generic web-PKI validator demands SAN, SKI or EKU and refuses these certificates. CRLs are not used (aws-nitro-enclaves-nsm-api:docs/attestation_process.md section 3.2.3).
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
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


def validate_path(certificate: bytes, cabundle: tuple[bytes, ...], trust_anchor: TrustAnchor, time: datetime) -> ec.EllipticCurvePublicKey:
    """Walk root → … → leaf and return the leaf's key. Raises VerificationError.

    4. The first certificate of the bundle is the trust anchor, byte for byte.
    5. Each certificate names its predecessor as issuer and is signed by its key, ECDSA with SHA-384.
    6. Each is valid at ``time``, both ends included.
    7. All but the leaf are CAs with keyCertSign, no path longer than its pathLen; the leaf is none, with digitalSignature and without pathLen.
    8. Every key is on P-384.
    9. No critical extension that we do not understand, no name constraints.
    """
    if not hmac.compare_digest(cabundle[0], trust_anchor.der):
        raise VerificationError(
            "root",
            "the document's root is not the trust anchor",
            got=f"{len(cabundle)} certificates from another root",
            expected=f"{trust_anchor.name} (SHA-256 {trust_anchor.sha256})",
        )
    chain = [_load(der, number) for number, der in enumerate([*cabundle, certificate])]
    parent = chain[0]
    for number, current in enumerate(chain):
        _check_link(parent, current, number)
        _check_validity(current, number, time)
        _check_extensions(current, number)
        _check_role(current, number, below=len(chain) - number - 2)
        parent = current
    return _key(chain[-1], len(chain) - 1)


def _load(der: bytes, number: int) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
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
    # The signature first: nothing of a certificate is looked into before somebody trusted has signed it.
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise VerificationError(
            "algorithm",
            f"certificate {number} is signed by another algorithm",
            got=certificate.signature_algorithm_oid.dotted_string,
            expected="ecdsa-with-SHA384",
        )
    try:
        _key(issuer, number - 1).verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise VerificationError(
            "certificate-signature", f"the signature on certificate {number} does not hold", do="treat the document as forged"
        ) from error
    try:
        names_agree = certificate.issuer == issuer.subject
    except ValueError as error:
        raise VerificationError("certificate", f"certificate {number} has a malformed name", got=str(error)[:120]) from error
    if not names_agree:
        raise VerificationError(
            "issuer",
            f"certificate {number} names another issuer",
            got=certificate.issuer.rfc4514_string()[:160],
            expected=issuer.subject.rfc4514_string()[:160],
        )


def _check_validity(certificate: x509.Certificate, number: int, time: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= time <= end:
        raise VerificationError(
            "validity",
            f"certificate {number} is not valid at the validation time",
            got=time.isoformat(),
            expected=f"{start.isoformat()} to {end.isoformat()}",
            do="ask for a fresh document; a leaf lives three hours",
        )


def _check_extensions(certificate: x509.Certificate, number: int) -> None:
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise VerificationError("certificate", f"certificate {number} has malformed extensions", got=str(error)[:120]) from error
    for extension in extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS or (extension.critical and extension.oid not in _UNDERSTOOD):
            raise VerificationError(
                "extension", f"certificate {number} has an extension that we do not process", got=extension.oid.dotted_string
            )


def _check_role(certificate: x509.Certificate, number: int, *, below: int) -> None:
    """``below``: how many CAs stand between this certificate and the leaf; -1 for the leaf itself."""
    constraints, usage = _extension(certificate, x509.BasicConstraints), _extension(certificate, x509.KeyUsage)
    _key(certificate, number)
    if below >= 0:
        if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
            raise VerificationError(
                "not-a-ca", f"certificate {number} may not issue certificates", expected="basicConstraints CA and keyUsage keyCertSign"
            )
        if constraints.path_length is not None and below > constraints.path_length:
            raise VerificationError(
                "path-length", f"the path below certificate {number} is too long", got=below, expected=f"at most {constraints.path_length}"
            )
        return
    if usage is None or not usage.digital_signature:
        raise VerificationError("leaf-usage", "the leaf may not sign documents", expected="keyUsage digitalSignature")
    if constraints is not None and (constraints.ca or constraints.path_length is not None):
        raise VerificationError("leaf-is-ca", "the leaf is a CA", expected="an end entity")


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
