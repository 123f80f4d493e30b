"""A summary for a pull request or a job's page, in GitHub's Markdown. Strings of hosts and policies cannot leave their cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from nitrokit.gate.report import Comparison, GateReport, Outcome, headline

_SIGNS = {Outcome.AGREES: "✅", Outcome.PLANNED: "🕑", Outcome.UNREACHABLE: "❔", Outcome.DRIFT: "❌"}
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>()#+!|~@:&])")
_MAX_ROWS, _MAX_DETAILS = 50, 30


def render_markdown(report: GateReport) -> Iterator[str]:
    """Headline, table and, for each disagreement, what differs. Long fleets are cut: the rows that agree first."""
    rows = list(islice(report.worst_first(), _MAX_ROWS))
    lines = [f"### nitrokit gate: {headline(report)}", "", "| | place | what | result | who can mend it |", "|---|---|---|---|---|"]
    lines += [_row(one) for one in rows]
    if more := sum(report.counts().values()) - len(rows):
        lines += ["", f"{more} more rows."]
    lines += [line for one in rows if one.details and one.outcome is not Outcome.AGREES for line in _details(one)]
    return (f"{line}\n" for line in lines)


def _row(one: Comparison) -> str:
    return f"| {_SIGNS[one.outcome]} | {one.place} | {_inert(one.subject)} | {_inert(one.reason)} | {_inert(one.rule.who)} |"


def _details(one: Comparison) -> Iterator[str]:
    yield from ("", f"<details><summary>{_inert(one.subject)}: {_inert(one.rule.title)}</summary>", "")
    yield from (f"- {_inert(line)}" for line in one.details[:_MAX_DETAILS])
    if len(one.details) > _MAX_DETAILS:
        yield f"- {len(one.details) - _MAX_DETAILS} more lines"
    yield from ("", _inert(one.rule.fix), "</details>")


def _inert(text: str) -> str:
    """No markup, no mention, no link. Entities: GitHub takes a backslash before some of these for text."""
    return _ACTIVE.sub(lambda found: f"&#{ord(found[1])};", text)
