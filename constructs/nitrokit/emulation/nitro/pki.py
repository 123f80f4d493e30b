"""The emulated Nitro PKI: the chain shape and lifetimes of AWS's, names of its own, keys made anew at each start and never written down."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nitrokit.core.attestation import TrustAnchor

# Lifetimes as observed on AWS's chains: root 30 years, regional 20 days + 1 h, zonal about 5.75 days, instance 1 day, leaf 3 h + 3 s.
_ROOT, _REGIONAL, _ZONAL, _INSTANCE = (
    timedelta(days=365.25 * 30),
    timedelta(days=20, hours=1),
    timedelta(days=5, hours=18),
    timedelta(days=1),
)
_LEAF = timedelta(hours=3, seconds=3)
_BACKDATED = timedelta(seconds=3)


@dataclass(frozen=True)
class Authority:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


class EmulatedPki:
    """Root → regional → zonal → instance; leaves are issued for each enclave. Each issuer is renewed before it ends, the root excepted."""

    def __init__(self, now: Callable[[], datetime], region: str = "us-east-1") -> None:
        self._now = now
        self._region = region
        self._root = self._issue(None, "emulated.nitro-enclaves", _ROOT, None)
        self._issuers: dict[str, tuple[Authority, Authority]] = {}

    @property
    def trust_anchor(self) -> TrustAnchor:
        return TrustAnchor("emulated Nitro root of this local AWS", self._root.der)

    def leaf(self, module_id: str) -> tuple[Authority, list[bytes]]:
        """A leaf for an enclave, and the bundle of its issuers, root first."""
        instance_id = module_id.split("-enc")[0]
        regional = self._issuer(self._root, f"{self._region}.emulated.nitro-enclaves", _REGIONAL, 2)
        zonal = self._issuer(regional, f"zonal.{self._region}.emulated.nitro-enclaves", _ZONAL, 1)
        instance = self._issuer(zonal, f"{instance_id}.{self._region}.emulated.nitro-enclaves", _INSTANCE, 0)
        leaf = self._issue(instance, f"{module_id}.{self._region}.emulated", _LEAF, None)
        return leaf, [one.der for one in (self._root, regional, zonal, instance)]

    def _issuer(self, above: Authority, name: str, lifetime: timedelta, path_length: int) -> Authority:
        """The one that was made before, as long as what it issues now does not outlive it and ``above`` is still who issued it."""
        issued_by, kept = self._issuers.get(name, (None, None))
        if kept is None or issued_by is not above or self._now() + _LEAF > kept.certificate.not_valid_after_utc:
            shown = name if lifetime == _INSTANCE else f"{secrets.token_hex(8)}.{name}"
            kept = self._issue(above, shown, lifetime, path_length)
            self._issuers[name] = above, kept
        return kept

    def _issue(self, issuer: Authority | None, name: str, lifetime: timedelta, path_length: int | None) -> Authority:
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([
            x509.NameAttribute(NameOID.COMMON_NAME, name[:64]),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nitrokit emulation"),
        ])  # fmt: skip
        is_leaf = lifetime == _LEAF
        start = self._now() - _BACKDATED
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
            .add_extension(x509.BasicConstraints(ca=not is_leaf, path_length=None if is_leaf else path_length), critical=True)
            .add_extension(_usage(is_leaf), critical=True)
        )
        return Authority(builder.sign((issuer.key if issuer else key), SHA384()), key)


def _usage(is_leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=is_leaf, key_cert_sign=not is_leaf, crl_sign=not is_leaf, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
