"""For people at a terminal: what is wrong first, with who can mend it; what agrees in one line each."""

from __future__ import annotations

from collections.abc import Iterator

from nitrokit.gate.report import Comparison, GateReport, Outcome, headline

_SIGNS = {Outcome.AGREES: "✓", Outcome.PLANNED: "~", Outcome.UNREACHABLE: "?", Outcome.DRIFT: "✗"}
_MAX_DETAILS = 12


def render_table(report: GateReport) -> Iterator[str]:
    """The report as lines of text."""
    yield f"{headline(report)}\n"
    for one in report.worst_first():
        yield from (f"{line}\n" for line in _lines(one))


def _lines(one: Comparison) -> Iterator[str]:
    yield f"{_SIGNS[one.outcome]} {one.place:<9}{one.subject}: {one.reason}"
    if one.outcome is Outcome.AGREES:
        return
    for line in one.details[:_MAX_DETAILS]:
        yield f"    {line}"
    if len(one.details) > _MAX_DETAILS:
        yield f"    {len(one.details) - _MAX_DETAILS} more lines: --format json"
    yield f"    {one.rule.title}. {one.rule.who} can mend it: {one.rule.fix}"
