"""``nitrokit sign EIF``: sign an image, so that PCR8 tells by whom."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.files import read_file, unwritable
from nitrokit.cli.output import JsonOption, result, talk
from nitrokit.errors import UsageError


def sign(
    eif: Annotated[Path, typer.Argument(help="The enclave image file; signed in place unless --output is given.")],
    certificate: Annotated[Path, typer.Option("--certificate", help="The signing certificate, PEM: P-256, P-384 or P-521.")],
    key: Annotated[Path | None, typer.Option("--key", help="Its private key, PEM.")] = None,
    kms_key: Annotated[str | None, typer.Option("--kms-key", help="Or the ARN of the KMS key that holds it (kms:Sign).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the signed image goes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign an EIF. PCR0, PCR1 and PCR2 stay; PCR8 becomes the certificate's measurement."""
    from nitrokit.core.eif import Signer
    from nitrokit.image import signing

    if (key is None) == (kms_key is None):
        raise UsageError(
            "no-key", "one key must be named", got="both" if key else "none", expected="--key FILE or --kms-key ARN", do="name one of them"
        )
    now = datetime.now(UTC)
    pem = read_file(certificate)
    sign_with = signing.key_file(key) if key is not None else signing.kms_key(str(kms_key), pem, signing.here().client)
    if not eif.is_file():
        raise UsageError("unreadable-file", f"cannot read {eif}", got="no regular file", do="check the path")
    try:
        signature = signing.sign_file(eif, output or eif, Signer(pem, sign_with), time=now)
    except OSError as error:
        raise unwritable(output or eif, error) from error
    dates = signature.describe()
    value = {"eif": str(output or eif), "pcr8": signature.pcr8.hex(), "not_before": dates["NotBefore"], "not_after": dates["NotAfter"]}

    def human() -> None:
        print(f"{value['eif']} is signed")
        print(f"PCR8 {value['pcr8']}")
        print(f"  the certificate is valid to {value['not_after']}; then the image starts no more")

    result(value, as_json=as_json, human=human)
    if not signature.valid_at(now + signing.SOON):
        talk(f"warning: the signing certificate ends within {signing.SOON.days} days")
