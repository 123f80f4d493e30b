"""From a gate's report (as its JSON has it) and the ledger's history to the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError

from nitrokit._version import __version__
from nitrokit.errors import UsageError
from nitrokit.gate.page import timeline
from nitrokit.gate.rules import RULES

_WORDS = {
    "PASS": "Everything agrees with the lock",
    "FAIL": "Something disagrees with the lock",
    "UNREACHABLE": "Not all that was asked for could be compared",
}
_ORDER = ("drift", "unreachable", "planned", "agrees")


def render_page(report: Mapping[str, Any], spans: Sequence[timeline.Span] = (), *, made: datetime, source: str | None = None) -> str:
    """One self-contained HTML file: no script, no request. ``source``: where the timeline's entries come from. Raises UsageError for what is not a gate's report."""
    environment = Environment(
        loader=PackageLoader("nitrokit.gate.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minutes"] = _minutes
    try:
        comparisons = sorted(report["comparisons"], key=lambda one: _ORDER.index(one["outcome"]))
        enclaves = [one for one in comparisons if one["evidence"]]
        return environment.get_template("report.html.j2").render(
            report=report,
            words=_WORDS[report["verdict"]],
            comparisons=comparisons,
            open=[one for one in comparisons if one["outcome"] != "agrees"],
            titles={rule.id: rule.title for rule in RULES.values()},
            enclaves=enclaves,
            chains=_chains(enclaves),
            drawing=timeline.draw(spans),
            size=timeline,
            source=source,
            made=made.isoformat(),
            version=__version__,
        )
    except (KeyError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise UsageError(
            "bad-report", "not a report of the gate", got=repr(error)[:120], expected="what `nitrokit gate --output gate.json` writes"
        ) from error


def _chains(enclaves: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """Each certificate once, with the number of enclaves that stand on it; the root first."""
    found: dict[str, Mapping[str, Any]] = {}
    depth: dict[str, int] = {}
    used: Counter[str] = Counter()
    for one in enclaves:
        for level, certificate in enumerate(one["evidence"]["chain"]):
            name = str(certificate["sha256"])
            found[name] = certificate
            depth[name] = level
            used[name] += 1
    return [(found[name], used[name]) for name in sorted(found, key=lambda name: (depth[name], str(found[name]["not_before"])))]


def _minutes(text: str | None) -> str:
    """An ISO time for people, to the minute, in UTC."""
    return f"{text[:10]} {text[11:16]} UTC" if text else "–"
