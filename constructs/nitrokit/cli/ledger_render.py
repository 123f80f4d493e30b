"""What ``nitrokit ledger at`` prints, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from nitrokit.cli.ledger_answer import Found
from nitrokit.cli.ledger_source import OpenedLedger
from nitrokit.cli.ledger_versions import Versions, version_of
from nitrokit.core.ledger import Run, Sighting

_SHOWN = 5


def answers_as_dict(found: Found, opened: OpenedLedger, versions: Versions) -> dict[str, Any]:
    """For JSON."""
    return {
        "enclave": found.enclave,
        "from": found.start.isoformat(),
        "to": found.end.isoformat(),
        "ledger": opened.name,
        "signature": _signature(found, opened),
        "signed_entries": found.signed.size if found.signed else 0,
        "complete": found.complete,
        "hosts": [
            {
                "host": one.host,
                "verdict": one.verdict,
                "runs": [_run_as_dict(run, found, versions) for run in one.runs],
                "gaps": [{"from": start.isoformat(), "to": end.isoformat()} for start, end in one.gaps],
                "unproven": [_unproven_as_dict(sighting) for sighting in one.unproven],
            }
            for one in found.answers
        ],
    }


def _run_as_dict(run: Run, found: Found, versions: Versions) -> dict[str, Any]:
    return {
        "module_id": run.module_id,
        "from": run.first.isoformat(),
        "to": run.last.isoformat(),
        "pcrs": {str(index): value.hex() for index, value in run.pcrs.items()},
        "debug_mode": run.is_debug,
        "version": version_of(run.pcrs, versions),
        "image": run.sightings[-1].entry.image,
        "verdicts": sorted({one.entry.verdict for one in run.sightings}),
        "entries": [one.sequence for one in run.sightings],
        "signed": found.signed is not None and run.sightings[-1].sequence < found.signed.size,
    }


def _unproven_as_dict(sighting: Sighting) -> dict[str, Any]:
    return {
        "entry": sighting.sequence,
        "time": sighting.entry.time.isoformat(),
        "verdict": sighting.entry.verdict,
        "reason": sighting.entry.reason,
        "error": sighting.refusal.as_dict() if sighting.refusal else None,
    }


def _signature(found: Found, opened: OpenedLedger) -> str:
    if found.signed is None or opened.trust.key is None:
        return "none"
    return "trusted" if opened.trust.named else "own"


def answers_lines(found: Found, opened: OpenedLedger, versions: Versions) -> list[str]:
    """For people."""
    lines = []
    when = f"at {_date(found.start)}" if found.start == found.end else f"from {_date(found.start)} to {_date(found.end)}"
    for one in found.answers:
        lines += [f"{one.verdict:<11} {found.enclave} on {one.host}, {when}"]
        for run in one.runs:
            lines += _run_lines(run, versions)
        lines += [f"  nothing is proven from {_date(start)} to {_date(end)}" for start, end in one.gaps if start != end]
        lines += _between(one.runs)
        lines += _unproven_lines(one.unproven)
    return [*lines, *_caveats(found, opened)]


def _run_lines(run: Run, versions: Versions) -> list[str]:
    count = len(run.sightings)
    what = (
        f"{_date(run.first)}, one document"
        if count == 1
        else f"{_date(run.first)} to {_date(run.last)}, {count} documents of one enclave: it ran all this time"
    )
    lines = [f"  {what}", f"    enclave    {run.module_id}"]
    if run.is_debug:
        lines.append("    DEBUG MODE nobody knows which image ran")
    lines += [f"    PCR{index:<7} {value.hex()}" for index, value in sorted(run.pcrs.items()) if any(value)]
    version, image = version_of(run.pcrs, versions), run.sightings[-1].entry.image
    lines += [f"    version    {version}"] if version else []
    lines += [f"    image      {image}, as the writer called it"] if image else []
    verdicts = sorted({one.entry.verdict for one in run.sightings})
    first, last = run.sightings[0].sequence, run.sightings[-1].sequence
    return [*lines, f"    judged     {', '.join(verdicts)} in entry {first}" + (f" to {last}" if last != first else "")]


def _between(runs: Sequence[Run]) -> list[str]:
    """What two enclaves one after the other tell, and what not."""
    lines = []
    for one, two in pairwise(runs):
        if one.last < two.first:
            change = "the same image before and after" if one.pcrs == two.pcrs else "ANOTHER IMAGE after than before"
            lines.append(
                f"  {change}: the enclave was started anew between {_date(one.last)} and {_date(two.first)}; what ran between is not proven"
            )
    return lines


def _unproven_lines(unproven: Sequence[Sighting]) -> list[str]:
    lines = []
    for one in unproven[:_SHOWN]:
        why = one.refusal.what if one.refusal else ""
        lines.append(
            f"  no proof   {_date(one.entry.time)} {one.entry.verdict}: {why}"
            + (f" ({_plain(one.entry.reason)})" if one.entry.reason else "")
        )
    rest = len(unproven) - _SHOWN
    return [*lines, f"  no proof   {rest} more entries; --json names them"] if rest > 0 else lines


def _caveats(found: Found, opened: OpenedLedger) -> list[str]:
    signature = {
        "none": "the ledger is not signed by a key that was named: the documents stand on AWS's root alone",
        "own": "the ledger is signed by the export's own key: name the one that you trust with --key",
        "trusted": "",
    }[_signature(found, opened)]
    lines = [f"  note       {signature}"] if signature else []
    last = max((sighting.sequence for one in found.answers for run in one.runs for sighting in run.sightings), default=-1)
    if found.signed is not None and last >= found.signed.size:
        lines.append(f"  note       entries from {found.signed.size} on are not yet signed")
    if not found.complete:
        lines.append("  note       records were found by the table's index, which may hide some; an export is read whole")
    return lines


def _plain(text: str) -> str:
    """A host may have its words in it: nothing that moves the cursor."""
    return "".join(sign if sign.isprintable() else " " for sign in text)[:300]


def _date(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
