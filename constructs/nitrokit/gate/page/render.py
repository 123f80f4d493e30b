"""From a gate's report (as its JSON has it) and the ledger's history to the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError
from markupsafe import Markup, escape

from nitrokit._version import __version__
from nitrokit.errors import UsageError
from nitrokit.gate.page import timeline
from nitrokit.gate.page.chains import summarize
from nitrokit.gate.report import Place
from nitrokit.gate.rules import RULES

_WORDS = {
    "PASS": "Everything agrees with the lock",
    "FAIL": "Something disagrees with the lock",
    "UNREACHABLE": "Not all that was asked for could be compared",
}
_ORDER = ("drift", "unreachable", "planned", "agrees")
_IN_A_CARD = 12
_CODE = re.compile(r"`([^`]+)`")


def render_page(report: Mapping[str, Any], spans: Sequence[timeline.Span] = (), *, made: datetime, source: str | None = None) -> str:
    """One self-contained HTML file: no script, no request. ``source``: where the timeline's entries come from. Raises UsageError for what is not a gate's report."""
    environment = Environment(
        loader=PackageLoader("nitrokit.gate.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(minutes=_minutes, words=_words, sets=_sets)
    try:
        comparisons = sorted(report["comparisons"], key=lambda one: _ORDER.index(one["outcome"]))
        enclaves = [one for one in comparisons if one["evidence"]]
        return environment.get_template("report.html.j2").render(
            report=report,
            words=_WORDS[report["verdict"]],
            open=_open(comparisons),
            limit=_IN_A_CARD,
            others=[one for one in comparisons if not one["evidence"]],
            titles={rule.id: rule.title for rule in RULES.values()},
            enclaves=enclaves,
            chains=summarize([one["evidence"]["chain"] for one in enclaves]),
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


def _open(comparisons: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """What does not simply agree, the worst first; what is of one kind together, since the same hand mends it."""

    def kind(one: Mapping[str, Any]) -> tuple[int, int, str, str]:
        return _ORDER.index(one["outcome"]), list(Place).index(one["place"]), str(one["rule"]), str(one["until"])

    left = [one for one in comparisons if one["outcome"] != "agrees"]
    return [list(group) for _, group in groupby(sorted(left, key=kind), key=kind)]


def _sets(lock: Mapping[str, Any]) -> Iterator[tuple[str | None, list[tuple[str, Any]]]]:
    """(until when, its PCRs) of each set of a lock: the current one has no date."""
    yield None, _pcrs(lock["Measurements"])
    yield from ((one["RetireAfter"], _pcrs(one["Measurements"])) for one in lock.get("Retiring", []))


def _pcrs(measurements: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in measurements.items() if name.startswith("PCR")]


def _minutes(text: str | None) -> str:
    """An ISO time for people, to the minute, in UTC."""
    return f"{text[:10]} {text[11:16]} UTC" if text else "–"


def _words(text: str) -> Markup:
    """A sentence, escaped; what stands in backquotes is code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))
