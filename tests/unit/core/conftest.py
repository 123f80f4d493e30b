"""A forge of attestation documents: a PKI of its own in the shape of AWS's, in which any one rule can be broken."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from nitrokit.core.attestation import TrustAnchor
from nitrokit.core.cose import ES384, key_signer, sign_sign1

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(6)]


def usage(**set_bits):
    bits = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip
    return x509.KeyUsage(**{**bits, **set_bits})


def name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@dataclass
class Certificate:
    """One certificate to be made. ``constraints``, ``usage``: None leaves the extension out; ``extra``: (extension, critical) pairs."""

    subject: str
    key: object
    constraints: x509.BasicConstraints | None
    usage: x509.KeyUsage | None
    issuer: str | None = None
    start: datetime = NOW - timedelta(hours=1)
    end: datetime = NOW + timedelta(hours=1)
    extra: list[Any] = field(default_factory=list)
    hash: object = field(default_factory=SHA384)
    signer: object = None


def plan():
    """Root, regional, zonal, instance, leaf; tests change what they want before it is made."""
    certificates = [
        Certificate(subject, KEYS[number], x509.BasicConstraints(True, length), usage(key_cert_sign=True, crl_sign=True))
        for number, (subject, length) in enumerate([("root", None), ("regional", 2), ("zonal", 1), ("instance", 0)])
    ]
    return [
        *certificates,
        Certificate(f"{MODULE_ID}.eu-west-1.aws", KEYS[4], x509.BasicConstraints(False, None), usage(digital_signature=True)),
    ]


def make(certificates):
    """DER of each, root first."""
    made = []
    for number, one in enumerate(certificates):
        issuer = certificates[max(number - 1, 0)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(one.subject))
            .issuer_name(name(one.issuer or issuer.subject))
            .public_key(one.key.public_key())
            .serial_number(number + 1)
            .not_valid_before(one.start)
            .not_valid_after(one.end)
        )
        extensions = [(one.constraints, True), (one.usage, True), *one.extra]
        for extension, critical in extensions:
            if extension is not None:
                builder = builder.add_extension(extension, critical)
        made.append(builder.sign(one.signer or issuer.key, one.hash).public_bytes(Encoding.DER))
    return made


@dataclass
class Forged:
    data: bytes
    trust_anchor: TrustAnchor


def forge(certificates=None, *, raw_payload=None, chain=None, key=None, **fields):
    """A document under the given certificates (``chain``: their DER). ``fields`` replace the payload's; a value of ... leaves one out."""
    certificates = certificates or plan()
    ders = chain or make(certificates)
    payload = {
        "module_id": MODULE_ID,
        "digest": "SHA384",
        "timestamp": int(NOW.timestamp() * 1000),
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(16)},
        "certificate": ders[-1],
        "cabundle": ders[:-1],
        "public_key": None,
        "user_data": None,
        "nonce": None,
    } | fields
    encoded = raw_payload or cbor2.dumps({field: value for field, value in payload.items() if value is not ...})
    signed = sign_sign1(encoded, ES384, key_signer(key or KEYS[4]))
    return Forged(signed.encode(), TrustAnchor("forged", ders[0]))


@pytest.fixture
def forgery():
    """The forge's tools."""
    return SimpleNamespace(forge=forge, plan=plan, make=make, usage=usage, now=NOW, keys=KEYS, module_id=MODULE_ID)
