"""``nitrokit measure EIF``: what ``nitro-cli describe-eif`` prints, without an EC2 instance."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.output import JsonOption, talk
from nitrokit.errors import UsageError


def measure(
    eif: Annotated[Path, typer.Argument(help="The enclave image file.")],
    as_json: JsonOption = False,
) -> None:
    """Print what an EIF measures. The JSON of `nitro-cli describe-eif`: measurements and header facts."""
    from nitrokit.core import boot
    from nitrokit.core.eif import read_eif

    try:
        with eif.open("rb") as file:
            found = read_eif(file)
            emulated = boot.is_emulated(found.cmdline)
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {eif}", got=str(error), expected="a regular file", do="check the path") from error
    print(json.dumps(found.describe(), indent=2))
    if emulated:
        talk("warning: its kernel command line switches the local emulation on: on real hardware it shows the parent what its app prints")
    signature = found.signature
    if signature is None:
        return
    if not signature.holds(found.measurements.pcr0):
        talk("warning: the signature does not hold over this image; PCR8 is only what the file claims")
    if not signature.valid_at(datetime.now(UTC)):
        dates = signature.describe()
        talk(f"warning: the signing certificate is valid from {dates['NotBefore']} to {dates['NotAfter']}: the enclave will not start")
