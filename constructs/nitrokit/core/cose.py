"""COSE_Sign1 (RFC 9052 section 4.2), ES384 alone (RFC 9053 section 2.1). The received bytes are kept and never encoded again."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from nitrokit.core import cbor
from nitrokit.errors import NitrokitError

PROTECTED_ES384 = bytes.fromhex("a1013822")  # {1: -35}
SIGNATURE_LENGTH = 96
MAX_PAYLOAD = 16384
_TAG_SIGN1 = 0xD2


class CoseError(NitrokitError):
    """Bytes that are not a COSE_Sign1 of the accepted form, or a signature that does not hold."""

    area = "cose"


@dataclass(frozen=True)
class CoseSign1:
    """``protected``, ``payload``: byte strings as received. ``signature``: raw r ‖ s, 96 bytes."""

    protected: bytes
    payload: bytes
    signature: bytes

    def sig_structure(self) -> bytes:
        """What is signed: ["Signature1", protected, external_aad = h'', payload]."""
        return cbor.encode(["Signature1", self.protected, b"", self.payload])

    def encode(self) -> bytes:
        """Untagged, empty unprotected map, as the Nitro hypervisor writes it."""
        return cbor.encode([self.protected, {}, self.payload, self.signature])


def parse_sign1(data: bytes, *, any_algorithm: bool = False) -> CoseSign1:
    """Parse a COSE_Sign1, tagged (18) or not. Raises CoseError or cbor.CborError.

    ``any_algorithm`` leaves the protected header and the signature's length unchecked, for those who only read: verification never sets it.
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
    if not any_algorithm:
        if protected != PROTECTED_ES384:
            raise CoseError(
                "algorithm", "the protected header is not exactly ES384", got=protected.hex()[:40], expected=PROTECTED_ES384.hex()
            )
        if len(signature) != SIGNATURE_LENGTH:
            raise CoseError("signature-size", "the signature has the wrong size", got=len(signature), expected=SIGNATURE_LENGTH)
    return CoseSign1(protected, payload, signature)


def verify_es384(sign1: CoseSign1, public_key: ec.EllipticCurvePublicKey) -> None:
    """Check the signature (high s allowed, as the hypervisor makes them). Raises CoseError."""
    half = SIGNATURE_LENGTH // 2
    r, s = (int.from_bytes(part, "big") for part in (sign1.signature[:half], sign1.signature[half:]))
    try:
        public_key.verify(encode_dss_signature(r, s), sign1.sig_structure(), ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise CoseError("bad-signature", "the COSE signature does not hold", do="treat the document as forged") from error


def sign_es384(payload: bytes, private_key: ec.EllipticCurvePrivateKey) -> CoseSign1:
    """Sign a payload, deterministically (RFC 6979): the emulated NSM and tests."""
    unsigned = CoseSign1(PROTECTED_ES384, payload, b"")
    r, s = decode_dss_signature(private_key.sign(unsigned.sig_structure(), ec.ECDSA(SHA384(), deterministic_signing=True)))
    return CoseSign1(PROTECTED_ES384, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big"))
