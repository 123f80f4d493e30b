"""JUnit XML, as test reports of CI servers read it: a suite for each place, a case for each comparison; drift is a failure, what was not reachable an error.

The form is what Jenkins' schema allows (jenkinsci/xunit-plugin, junit-10.xsd), which is the strictest in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring
from xml.sax.saxutils import quoteattr

from nitrokit.gate.report import Comparison, GateReport, Outcome, Place


def render_junit(report: GateReport) -> Iterator[str]:
    """The report as a ``testsuites`` document."""
    yield f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="nitrokit gate" {_counts(report.counts())}>\n'
    for place in Place:
        counts = report.counts(place)
        if any(counts.values()):
            timestamp = report.time.isoformat(timespec="seconds")
            yield f'  <testsuite name={quoteattr(place)} timestamp={quoteattr(timestamp)} {_counts(counts)} skipped="0">\n'
            yield from (_case(one) for one in report.comparisons if one.place is place)
            yield "  </testsuite>\n"
    yield "</testsuites>\n"


def _counts(counts: dict[str, int]) -> str:
    errors, failures = counts[Outcome.UNREACHABLE], counts[Outcome.DRIFT]
    return f'tests="{sum(counts.values())}" failures="{failures}" errors="{errors}" time="0"'


def _case(one: Comparison) -> str:
    case = Element("testcase", classname=f"nitrokit.gate.{one.place}", name=f"{one.subject} [{one.rule_id}]", time="0")
    text = "\n".join([one.reason, *one.details, f"{one.rule.who} can mend it: {one.rule.fix}" if one.rule.fix else ""]).strip()
    kind = {Outcome.DRIFT: "failure", Outcome.UNREACHABLE: "error"}.get(one.outcome)
    if kind:
        SubElement(case, kind, message=f"{one.rule.title}: {one.reason}", type=one.rule_id).text = text
    elif one.outcome is Outcome.PLANNED:
        SubElement(case, "system-out").text = text
    indent(case, level=2)
    return f"    {tostring(case, encoding='unicode')}\n"
