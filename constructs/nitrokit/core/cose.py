"""COSE_Sign1 (RFC 9052 section 4.2) with ECDSA (RFC 9053 section 2.1). The received bytes are kept and never encoded again.

Attestation documents are ES384 alone; the signature of an EIF is ES256, ES384 or ES512, by its key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from nitrokit.core import cbor
from nitrokit.errors import NitrokitError

MAX_PAYLOAD = 16384
_TAG_SIGN1 = 0xD2


class CoseError(NitrokitError):
    """Bytes that are not a COSE_Sign1 of the accepted form, or a signature that does not hold."""

    area = "cose"


@dataclass(frozen=True)
class Algorithm:
    """``identifier``: COSE's number. ``coordinate``: bytes of r and of s."""

    name: str
    identifier: int
    curve: str
    hash: type[hashes.HashAlgorithm]
    coordinate: int

    @property
    def protected(self) -> bytes:
        """The protected header that names this algorithm and nothing else: the encoding of {1: identifier}."""
        return cbor.encode({1: self.identifier})


ES256 = Algorithm("ES256", -7, "secp256r1", hashes.SHA256, 32)
ES384 = Algorithm("ES384", -35, "secp384r1", hashes.SHA384, 48)
ES512 = Algorithm("ES512", -36, "secp521r1", hashes.SHA512, 66)
ALGORITHMS = (ES256, ES384, ES512)


@dataclass(frozen=True)
class CoseSign1:
    """``protected``, ``payload``: byte strings as received. ``signature``: raw r ‖ s."""

    protected: bytes
    payload: bytes
    signature: bytes

    def sig_structure(self) -> bytes:
        """What is signed: ["Signature1", protected, external_aad = h'', payload]."""
        return cbor.encode(["Signature1", self.protected, b"", self.payload])

    def encode(self) -> bytes:
        """Untagged, empty unprotected map, as the Nitro hypervisor writes it."""
        return cbor.encode([self.protected, {}, self.payload, self.signature])


def parse_sign1(data: bytes, algorithms: tuple[Algorithm, ...] | None) -> CoseSign1:
    """Parse a COSE_Sign1, tagged (18) or not, signed by one of ``algorithms``. Raises CoseError or cbor.CborError.

    None leaves the protected header and the signature's length unchecked, for those who only read: verification never passes it.
    """
    items = cbor.decode(data[1:] if data[:1] == bytes([_TAG_SIGN1]) else data)
    if not isinstance(items, list) or len(items) != 4:
        raise CoseError("not-sign1", "not a COSE_Sign1", got=type(items).__name__, expected="an array of 4")
    protected, unprotected, payload, signature = items
    if not all(isinstance(item, bytes) for item in (protected, payload, signature)):
        raise CoseError("not-sign1", "COSE_Sign1 protected header, payload and signature must be byte strings")
    if unprotected != {} or not isinstance(unprotected, dict):
        raise CoseError("unprotected-header", "the unprotected header is not an empty map", got=repr(unprotected)[:80], expected="{}")
    if not 1 <= len(payload) <= MAX_PAYLOAD:
        raise CoseError("payload-size", "the payload's size is out of range", got=len(payload), expected=f"1 to {MAX_PAYLOAD} bytes")
    sign1 = CoseSign1(protected, payload, signature)
    if algorithms is not None:
        algorithm = named_algorithm(sign1, algorithms)
        if len(signature) != 2 * algorithm.coordinate:
            raise CoseError("signature-size", "the signature has the wrong size", got=len(signature), expected=2 * algorithm.coordinate)
    return sign1


def named_algorithm(sign1: CoseSign1, algorithms: tuple[Algorithm, ...] = ALGORITHMS) -> Algorithm:
    """The algorithm that the protected header names, exactly and alone. Raises CoseError."""
    for algorithm in algorithms:
        if sign1.protected == algorithm.protected:
            return algorithm
    expected = ", ".join(f"{algorithm.protected.hex()} ({algorithm.name})" for algorithm in algorithms)
    raise CoseError(
        "algorithm", "the protected header does not name an accepted algorithm alone", got=sign1.protected.hex()[:40], expected=expected
    )


def algorithm_of(public_key: object) -> Algorithm:
    """The algorithm that goes with a key's curve. Raises CoseError for another key."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        for algorithm in ALGORITHMS:
            if public_key.curve.name == algorithm.curve:
                return algorithm
    raise CoseError("key", "not a key for COSE signatures", got=type(public_key).__name__, expected="P-256, P-384 or P-521")


def verify_sign1(sign1: CoseSign1, public_key: ec.EllipticCurvePublicKey) -> None:
    """Check a parsed message's signature with the algorithm of the key (high s allowed, as the hypervisor makes them). Raises CoseError."""
    algorithm = algorithm_of(public_key)
    named_algorithm(sign1, (algorithm,))
    size = algorithm.coordinate
    r, s = (int.from_bytes(part, "big") for part in (sign1.signature[:size], sign1.signature[size:]))
    try:
        public_key.verify(encode_dss_signature(r, s), sign1.sig_structure(), ec.ECDSA(algorithm.hash()))
    except InvalidSignature as error:
        raise CoseError("bad-signature", "the COSE signature does not hold", do="treat the message as forged") from error


def sign_sign1(payload: bytes, algorithm: Algorithm, sign: Callable[[bytes], bytes]) -> CoseSign1:
    """Sign a payload. ``sign``: message → DER signature with the algorithm's key and hash, wherever that key is."""
    unsigned = CoseSign1(algorithm.protected, payload, b"")
    r, s = decode_dss_signature(sign(unsigned.sig_structure()))
    size = algorithm.coordinate
    return CoseSign1(algorithm.protected, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big"))


def key_signer(private_key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    """``sign`` for a key that is at hand; deterministic (RFC 6979), so that the same message gives the same bytes."""
    algorithm = algorithm_of(private_key.public_key())
    return lambda message: private_key.sign(message, ec.ECDSA(algorithm.hash(), deterministic_signing=True))
