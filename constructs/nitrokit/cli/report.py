"""``nitrokit report GATE.json``: the attestation report, one HTML file for people who were not there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.files import read_file, write_file
from nitrokit.cli.output import JsonOption, result
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.gate.page.timeline import Span


def report(
    gate: Annotated[Path, typer.Argument(help="What `nitrokit gate --output gate.json` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path("attestation-report.html"),
    ledger: Annotated[Path | None, typer.Option("--ledger", help="An export of the ledger: adds the timeline of versions.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The ledger's public key, PEM or DER, from where you trust it.")] = None,
    measurements: Annotated[
        list[Path] | None,
        typer.Option(
            "--measurements", "-m", help="measurements.json or image folder, to name the timeline's versions; its git history too."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Trust anchor, DER or PEM. Default: AWS's Nitro Enclaves root G1.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the attestation report, one HTML file. Fleet, measurements, chain and dates, timeline of versions, drift with its reasons; readable offline and on paper."""
    from nitrokit.gate.page.render import render_page

    spans, source = ([], None) if ledger is None else _history(ledger, key, measurements or [], root)
    page = render_page(_read(gate), spans, made=datetime.now(UTC), source=source)
    write_file(output, [page.encode()])
    result({"report": str(output), "size": len(page)}, as_json=as_json, human=lambda: print(output))


def _history(folder: Path, key: Path | None, measurements: list[Path], root: Path | None) -> tuple[list[Span], str]:
    """The timeline's spans, and what they stand on. The export is read and verified whole first. Raises LedgerError, UsageError."""
    from nitrokit.cli.ledger_source import open_ledger
    from nitrokit.cli.ledger_versions import read_versions, version_of
    from nitrokit.cli.trust import trust_anchor
    from nitrokit.core.attestation import ChainCache
    from nitrokit.core.ledger import sight, walk
    from nitrokit.gate.page.history import spans

    opened, versions, anchor, cache = (
        open_ledger(folder, None, None, key, None),
        read_versions(measurements),
        trust_anchor(root),
        ChainCache(),
    )
    checkpoints = [opened.trust.check(note) for note in opened.notes]
    sightings = (sight(one, trust_anchor=anchor, chain_cache=cache) for one in walk(opened.log, opened.size, checkpoints))
    found = spans(sightings, lambda pcrs: version_of(pcrs, versions) or f"PCR0 {pcrs.get(0, b'').hex()[:16]}…")
    signed = (
        "signed by the key that was named"
        if opened.trust.named
        else "signed by the key in the export"
        if opened.trust.key
        else "not signed"
    )
    return found, f"{opened.size} entries up to {checkpoints[-1].time:%Y-%m-%d %H:%M} UTC, {signed}"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "not-json", f"{path} is not JSON", got=str(error)[:120], do="write it with `nitrokit gate --output gate.json`"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            "bad-report",
            "not a report of the gate",
            got=type(value).__name__,
            expected="what `nitrokit gate --output gate.json` writes",
            do="write it so",
        )
    return value
