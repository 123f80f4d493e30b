"""Signing an EIF: with a key at hand, or one that never leaves KMS. The file appears whole, or stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from nitrokit.core import cose
from nitrokit.core.eif import Signer, read_eif, sign_eif
from nitrokit.core.eif.signature import EifSignature, load_certificate
from nitrokit.core.manifest import Signing
from nitrokit.core.measurements import pcr8
from nitrokit.errors import NitrokitError, UsageError
from nitrokit.image import aws
from nitrokit.image.files import replacing

SOON = timedelta(days=30)
_KMS_ARN = re.compile(r"arn:aws[a-z-]*:kms:((?!-)[a-z0-9-]{1,63}(?<!-)):[0-9]{12}:key/[a-zA-Z0-9-]+")
_KMS_ALGORITHM = {"ES256": "ECDSA_SHA_256", "ES384": "ECDSA_SHA_384", "ES512": "ECDSA_SHA_512"}


@dataclass(frozen=True)
class SignWith:
    """What signing needs of the world. ``client``: Region → boto3 KMS client."""

    time: datetime
    client: Callable[[str], Any]


class SigningError(NitrokitError):
    """An image that cannot be signed so that it starts."""

    area = "signing"


def configured_signer(folder: Path, signing: Signing | None, sign_with: SignWith | None) -> tuple[Signer | None, bytes | None]:
    """Who signs an image as its enclave.toml has it, and its PCR8, which the certificate alone makes. Without ``sign_with`` nobody signs. Raises UsageError, EifError, SigningError."""
    if signing is None:
        return None, None
    pem = read_certificate(folder, signing)
    value = pcr8(load_certificate(pem).public_bytes(Encoding.DER))
    if sign_with is None:
        return None, value
    _check_dates(pem, sign_with.time)
    sign = key_file(folder / signing.key) if signing.key is not None else kms_key(str(signing.kms_key), pem, sign_with.client)
    return Signer(pem, sign), value


def read_certificate(folder: Path, signing: Signing) -> bytes:
    """The certificate that [signing] names, PEM. Raises UsageError."""
    try:
        return (folder / signing.certificate).read_bytes()
    except OSError as error:
        raise UsageError(
            "unreadable-file",
            f"cannot read {folder / signing.certificate}",
            got=str(error),
            expected="the certificate that [signing] names",
        ) from error


def here() -> SignWith:
    """This machine's time and credentials."""
    return SignWith(datetime.now(UTC), partial(aws.client, "kms"))


def sign_file(eif: Path, output: Path, signer: Signer, *, time: datetime) -> EifSignature:
    """Sign ``eif`` into ``output`` (the same path, or another), in place of any signature it had. Raises EifError, SigningError for a certificate that is not valid at ``time``, OSError."""
    _check_dates(signer.certificate, time)
    with eif.open("rb") as source, replacing(output) as target:
        sign_eif(read_eif(source), target, signer)
        target.flush()
        signature = read_eif(target).signature
    assert signature is not None
    return signature


def validity(certificate_pem: bytes) -> tuple[datetime, datetime]:
    """From when to when a signing certificate is valid, UTC. Raises EifError."""
    certificate = load_certificate(certificate_pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _check_dates(certificate_pem: bytes, time: datetime) -> None:
    start, end = validity(certificate_pem)
    if not start <= time <= end:
        raise SigningError(
            "certificate-dates",
            "the signing certificate is not valid now: nitro-cli would refuse to start the image",
            got=f"{start.isoformat()} to {end.isoformat()}",
            expected=f"valid at {time.isoformat()}",
            do="renew the certificate (which changes PCR8), and sign with the new one",
        )


def key_file(path: Path) -> Callable[[bytes], bytes]:
    """``sign`` of a private key in a PEM file. Raises UsageError."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), do="check the path") from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            "bad-key",
            f"{path} is not a private key that can be read",
            got=str(error)[:120],
            expected="PEM, not encrypted",
            do="keep it in KMS, and name its ARN",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("bad-key", f"{path} is another kind of key", got=type(key).__name__, expected="P-256, P-384 or P-521")
    cose.algorithm_of(key.public_key())
    return cose.key_signer(key)


def kms_key(arn: str, certificate_pem: bytes, client: Callable[[str], Any]) -> Callable[[bytes], bytes]:
    """``sign`` of a KMS key: the message (a PCR0, far below 4096 bytes) goes there, the signature comes back. ``client``: Region → boto3 KMS client. Raises UsageError; signing raises SigningError."""
    found = _KMS_ARN.fullmatch(arn)
    if found is None:
        raise UsageError(
            "bad-key-arn",
            "not the ARN of a KMS key",
            got=arn[:160],
            expected="arn:aws:kms:<region>:<account>:key/<id>",
            do="name the key by its ARN: an alias may lead elsewhere tomorrow, and an id alone tells no Region",
        )
    algorithm = cose.algorithm_of(load_certificate(certificate_pem).public_key())
    kms = client(found[1])

    def sign(message: bytes) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = kms.sign(KeyId=arn, Message=message, MessageType="RAW", SigningAlgorithm=_KMS_ALGORITHM[algorithm.name])
        except (ClientError, BotoCoreError) as error:
            raise SigningError(
                "kms",
                "KMS did not sign",
                got=str(error)[:300],
                expected=f"a SIGN_VERIFY key for {algorithm.name}, and kms:Sign on it",
                do="check the key and your credentials",
            ) from error
        return bytes(answer["Signature"])

    return sign
