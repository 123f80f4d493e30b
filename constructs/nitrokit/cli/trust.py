"""What a user names as trusted: files with certificates and keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nitrokit.cli.files import read_file
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.core.attestation import TrustAnchor


def trust_anchor(path: Path | None) -> TrustAnchor:
    """The root certificate in a file (DER or PEM); without one, AWS's. Raises UsageError."""
    from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

    return AWS_NITRO_ROOT_G1 if path is None else TrustAnchor(name=path.name, der=read_certificate(path))


def read_certificate(path: Path) -> bytes:
    """DER of a certificate in DER or PEM. Raises UsageError: a wrong file must not look like a document that does not verify."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = read_file(path)
    load = x509.load_pem_x509_certificate if data.lstrip().startswith(b"-----BEGIN") else x509.load_der_x509_certificate
    try:
        return load(data).public_bytes(Encoding.DER)
    except ValueError as error:
        raise UsageError(
            "bad-certificate",
            f"{path} is not a certificate",
            got=repr(data[:24]),
            expected="one certificate, DER or PEM",
            do="check the path",
        ) from error
