"""The signature section: a COSE_Sign1 over PCR0 with its certificate (aws-nitro-enclaves-image-format:README.md "EifSectionSignature").

CBOR: an array of maps {signing_certificate, signature}, both arrays of integers, of which the first alone counts; the payload is {register_index: 0, register_value: PCR0}.
The section is not measured; the hypervisor puts the certificate's measurement into PCR8 of an enclave whose signature holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from nitrokit.core import cbor, cose
from nitrokit.core.eif.format import MAX_SIGNATURE, EifError
from nitrokit.core.measurements import PCR_LENGTH, pcr8

_CERTIFICATE, _SIGNATURE = "signing_certificate", "signature"
_INDEX, _VALUE = "register_index", "register_value"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class EifSignature:
    """What a signature section says. ``pcr0``: the value that was signed; ``holds`` tells whether it is this image's."""

    certificate: x509.Certificate
    sign1: cose.CoseSign1
    pcr0: bytes

    @property
    def pcr8(self) -> bytes:
        """The measurement of the certificate's DER."""
        return pcr8(self.certificate.public_bytes(Encoding.DER))

    def holds(self, pcr0: bytes) -> bool:
        """``nitro-cli describe-eif``'s SignatureCheck: the signature holds under the certificate's key, and what it signs is the measured PCR0."""
        try:
            cose.verify_sign1(self.sign1, _public_key(self.certificate))
        except cose.CoseError:
            return False
        return self.pcr0 == pcr0

    def valid_at(self, time: datetime) -> bool:
        """Whether the certificate is valid then: ``run-enclave`` refuses an image whose certificate has expired (E59)."""
        return self.certificate.not_valid_before_utc <= time <= self.certificate.not_valid_after_utc

    def describe(self) -> dict[str, Any]:
        """SigningCertificate as ``nitro-cli describe-eif`` prints it (aws-nitro-enclaves-image-format:src/utils/eif_reader.rs)."""
        certificate = self.certificate
        issuer = {attribute.oid._name: str(attribute.value) for attribute in certificate.issuer}  # noqa: SLF001 - the only place of OpenSSL's long names
        return {
            "IssuerName": dict(sorted(issuer.items())),
            "Algorithm": certificate.signature_algorithm_oid._name,  # noqa: SLF001
            "NotBefore": _openssl_time(certificate.not_valid_before_utc),
            "NotAfter": _openssl_time(certificate.not_valid_after_utc),
            "Signature": certificate.signature.hex(":").upper(),
        }


def parse_signature(section: bytes) -> EifSignature:
    """Parse a signature section; nothing is verified. Raises EifError."""
    try:
        items = cbor.decode(section, max_size=MAX_SIGNATURE)
        if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict) or set(items[0]) != {_CERTIFICATE, _SIGNATURE}:
            raise _malformed("another structure", f"an array of one map with {_CERTIFICATE} and {_SIGNATURE}")
        certificate = load_certificate(_octets(items[0][_CERTIFICATE], _CERTIFICATE))
        sign1 = cose.parse_sign1(_octets(items[0][_SIGNATURE], _SIGNATURE), (cose.algorithm_of(certificate.public_key()),))
        payload = cbor.decode(sign1.payload)
    except (cbor.CborError, cose.CoseError) as error:
        raise _malformed(f"{error.what} [{error.code}]", str(error.expected)) from error
    if not isinstance(payload, dict) or set(payload) != {_INDEX, _VALUE} or payload[_INDEX] != 0 or isinstance(payload[_INDEX], bool):
        raise _malformed("another payload", f"a map of {_INDEX} 0 and {_VALUE}")
    pcr0 = _octets(payload[_VALUE], _VALUE)
    if len(pcr0) != PCR_LENGTH:
        raise _malformed(f"a PCR0 of {len(pcr0)} bytes", f"{PCR_LENGTH} bytes")
    return EifSignature(certificate, sign1, pcr0)


def make_signature(pcr0: bytes, certificate_pem: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """A signature section over ``pcr0``. ``sign``: message → DER signature by the certificate's key, with SHA-256, 384 or 512 for P-256, P-384 or P-521. Raises EifError."""
    certificate = load_certificate(certificate_pem)
    key = _public_key(certificate)
    sign1 = cose.sign_sign1(cbor.encode({_INDEX: 0, _VALUE: list(pcr0)}), cose.algorithm_of(key), sign)
    try:
        cose.verify_sign1(sign1, key)
    except cose.CoseError as error:
        raise EifError(
            "signing-key",
            "the signature does not verify under the certificate",
            got=certificate.subject.rfc4514_string()[:120],
            expected="the certificate of the key that signs",
            do="name the certificate and the private key that belong together",
        ) from error
    section = cbor.encode([{_CERTIFICATE: list(certificate_pem), _SIGNATURE: list(sign1.encode())}])
    if len(section) > MAX_SIGNATURE:
        raise EifError("signature-size", "the signature section is too large", got=len(section), expected=f"at most {MAX_SIGNATURE} bytes")
    return section


def load_certificate(pem: bytes) -> x509.Certificate:
    """A signing certificate: PEM, with a key on P-256, P-384 or P-521. Raises EifError."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        cose.algorithm_of(certificate.public_key())
        # Read late by cryptography: what cannot be read shall show here and nowhere else.
        for name in (certificate.issuer, certificate.subject):
            name.rfc4514_string()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except Exception as error:  # cryptography's parser has several
        raise EifError(
            "signing-certificate",
            "not a certificate that can sign an image",
            got=str(error)[:200],
            expected="PEM, with a key on P-256, P-384 or P-521",
        ) from error
    return certificate


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # load_certificate took no other
    return key


def _octets(value: object, name: str) -> bytes:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= 255 for item in value):
        raise _malformed(f"{name} is {type(value).__name__}", "an array of integers from 0 to 255")
    return bytes(value)


def _malformed(got: str, expected: str) -> EifError:
    return EifError("signature", "the signature section is malformed", got=got[:200], expected=expected)


def _openssl_time(time: datetime) -> str:
    return f"{_MONTHS[time.month - 1]} {time.day:2} {time:%H:%M:%S} {time.year} GMT"
