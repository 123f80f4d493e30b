"""The ledger's sightings as spans of the timeline: what its documents prove, and the checks that proved nothing. Memory grows with enclaves and days, not with entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime

from nitrokit.core.attestation.policy import IMAGE_PCRS
from nitrokit.core.ledger import Sighting
from nitrokit.gate.page.timeline import Span
from nitrokit.gate.report import one_line

Name = Callable[[Mapping[int, bytes]], str]
"""PCRs that tell an image → what people call it."""


def spans(sightings: Iterable[Sighting], name: Name) -> list[Span]:
    """A span for each enclave from its first to its last document: one module id names one enclave from launch to end, so that it ran all the time between (nitrokit.core.ledger.history).
    A debug-mode enclave proves no version. Of checks that proved nothing, one mark for each row and day.
    """
    ran: dict[tuple[str, str, str | None], tuple[datetime, datetime]] = {}
    nothing: dict[tuple[str, date], tuple[datetime, str]] = {}
    for one in sightings:
        row = f"{one.entry.enclave} on {one.entry.host}"
        if one.document is None or one.document.is_debug:
            why = "a debug-mode enclave" if one.document else one.entry.reason or str(one.refusal)
            nothing.setdefault((row, one.time.date()), (one.time, one_line(why[:200])))
            continue
        pcrs = {index: value for index, value in one.document.pcrs.items() if index in IMAGE_PCRS and any(value)}
        key = (row, one.document.module_id, name(pcrs))
        first, last = ran.get(key, (one.time, one.time))
        ran[key] = (min(first, one.time), max(last, one.time))
    marks = [Span(row, time, time, None, why) for (row, _), (time, why) in nothing.items()]
    return [Span(row, first, last, version) for (row, _, version), (first, last) in ran.items()] + marks
