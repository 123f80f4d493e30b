"""``nitrokit verify DOCUMENT``: is this attestation document authentic, and is it of an image that I accept?"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nitrokit.cli.output import JsonOption, result
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.core.attestation import TrustAnchor
    from nitrokit.core.measurements import Measurements


def verify(
    document: Annotated[Path, typer.Argument(help="The attestation document: raw CBOR or base64.")],
    measurements: Annotated[
        list[Path], typer.Option("--measurements", "-m", help="measurements.json to accept, or an image folder; may be repeated (any of).")
    ],
    nonce: Annotated[str | None, typer.Option("--nonce", help="The nonce you asked for, in hex.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Trust anchor, DER or PEM. Default: AWS's Nitro Enclaves root G1.")] = None,
    at: Annotated[
        datetime | None, typer.Option("--at", help="Validation time (UTC); default: now. Name it to check archived evidence.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify an attestation document and appraise it against locked measurements (exit 1: no)."""
    from nitrokit.core.attestation import AppraisalPolicy, appraise, verify_document

    time = (at.replace(tzinfo=UTC) if at.tzinfo is None else at) if at else datetime.now(UTC)
    policy = AppraisalPolicy(measurements=[_measurements(path) for path in measurements], nonce=_nonce(nonce))
    verified = verify_document(_document(document), trust_anchor=_anchor(root), time=time)
    appraisal = appraise(verified, policy, time=time)
    value = {
        "verdict": "PASS",
        "module_id": verified.module_id,
        "timestamp": verified.timestamp.isoformat(),
        "validation_time": time.isoformat(),
        "pcrs": {str(index): pcr.hex() for index, pcr in verified.pcrs.items()},
        "checks": [check.name for check in appraisal.checks],
    }

    def human() -> None:
        print(f"PASS {verified.module_id} at {verified.timestamp.isoformat()} (validated for {time.isoformat()})")
        for check in appraisal.checks:
            print(f"  ✓ {check.name}")

    result(value, as_json=as_json, human=human)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), do="check the path") from error


def _document(path: Path) -> bytes:
    data = _read(path)
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        return data


def _measurements(path: Path) -> Measurements:
    from nitrokit.core.measurements import Measurements

    return Measurements.parse(_read(path / "measurements.json" if path.is_dir() else path))


def _nonce(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError as error:
        raise UsageError("bad-nonce", "the nonce is not hex", got=text, expected="an even number of hex digits") from error


def _anchor(path: Path | None) -> TrustAnchor:
    from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

    if path is None:
        return AWS_NITRO_ROOT_G1
    data = _read(path)
    if data.lstrip().startswith(b"-----BEGIN"):
        body = b"".join(line for line in data.splitlines() if line and not line.startswith(b"-----"))
        try:
            data = base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise UsageError(
                "bad-root", f"{path} is not a PEM certificate", got=str(error), expected="one certificate, DER or PEM"
            ) from error
    return TrustAnchor(name=path.name, der=data)
