"""Annotations of a GitHub workflow run. Source: GitHub Docs "Workflow commands for GitHub Actions" (setting an error, warning or notice message; escaping as in actions/toolkit)."""

from __future__ import annotations

from collections.abc import Iterator

from nitrokit.gate.report import Comparison, GateReport, Outcome, headline

_LEVELS = {Outcome.DRIFT: "error", Outcome.UNREACHABLE: "error", Outcome.PLANNED: "notice"}


def render_github(report: GateReport) -> Iterator[str]:
    """One workflow command for everything that does not simply agree."""
    yield from (f"{_annotation(one)}\n" for one in report.worst_first() if one.outcome in _LEVELS)
    yield f"{_message(headline(report))}\n"


def _annotation(one: Comparison) -> str:
    properties = {"file": one.path, "line": "1" if one.path else None, "title": f"{one.rule.title} ({one.place})"}
    told = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    text = "\n".join([f"{one.subject}: {one.reason}", *one.details[:20], f"{one.rule.who} can mend it: {one.rule.fix}"])
    return f"::{_LEVELS[one.outcome]} {told}::{_message(text)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
