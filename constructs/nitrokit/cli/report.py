"""``nitrokit report GATE.json``: the attestation report, one HTML file for people who were not there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from nitrokit.cli.output import JsonOption, result
from nitrokit.errors import UsageError


def report(
    gate: Annotated[Path, typer.Argument(help="What `nitrokit gate --output gate.json` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path("attestation-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Write the attestation report: fleet, measurements, chain and dates, drift with its reasons. One file, readable offline and on paper."""
    from nitrokit.gate.page.render import render_page
    from nitrokit.image.files import write_atomically

    page = render_page(_read(gate), made=datetime.now(UTC))
    try:
        write_atomically(output, [page.encode()])
    except OSError as error:
        raise UsageError("unwritable-file", f"cannot write {output}", got=str(error), do="check the path") from error
    result({"report": str(output), "size": len(page)}, as_json=as_json, human=lambda: print(output))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), do="check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "not-json", f"{path} is not JSON", got=str(error)[:120], do="write it with `nitrokit gate --output gate.json`"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            "bad-report", "not a report of the gate", got=type(value).__name__, expected="what `nitrokit gate --output gate.json` writes"
        )
    return value
