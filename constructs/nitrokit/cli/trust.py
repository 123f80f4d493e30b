"""What a user names as trusted: files with certificates and keys."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.core.attestation import TrustAnchor


def read_file(path: Path) -> bytes:
    """Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), do="check the path") from error


def trust_anchor(path: Path | None) -> TrustAnchor:
    """The root certificate in a file (DER or PEM); without one, AWS's. Raises UsageError."""
    from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

    return AWS_NITRO_ROOT_G1 if path is None else TrustAnchor(name=path.name, der=read_certificate(path))


def read_certificate(path: Path) -> bytes:
    """DER of a certificate in DER or PEM. Raises UsageError."""
    data = read_file(path)
    if not data.lstrip().startswith(b"-----BEGIN"):
        return data
    body = b"".join(line for line in data.splitlines() if line and not line.startswith(b"-----"))
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise UsageError(
            "bad-certificate", f"{path} is not a PEM certificate", got=str(error), expected="one certificate, DER or PEM"
        ) from error
