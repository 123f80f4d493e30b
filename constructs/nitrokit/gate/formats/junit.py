"""JUnit XML, as test reports of CI servers read it: a suite for each place, a case for each comparison; drift is a failure, what was not reachable an error."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from nitrokit.gate.report import Comparison, GateReport, Outcome, Place


def render_junit(report: GateReport) -> str:
    """The report as a ``testsuites`` document."""
    root = Element("testsuites", {"name": "nitrokit gate", **_counts(report.comparisons)})
    for place in Place:
        cases = [one for one in report.comparisons if one.place is place]
        if cases:
            attributes = {"name": str(place), "timestamp": report.time.isoformat(timespec="seconds"), **_counts(tuple(cases))}
            suite = SubElement(root, "testsuite", attributes)
            for one in cases:
                _case(suite, one)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _counts(comparisons: tuple[Comparison, ...]) -> dict[str, str]:
    outcomes = [one.outcome for one in comparisons]
    errors, failures = outcomes.count(Outcome.UNREACHABLE), outcomes.count(Outcome.DRIFT)
    return {"tests": str(len(outcomes)), "failures": str(failures), "errors": str(errors), "skipped": "0", "time": "0"}


def _case(suite: Element, one: Comparison) -> None:
    case = SubElement(suite, "testcase", classname=f"nitrokit.gate.{one.place}", name=f"{one.subject} [{one.rule_id}]", time="0")
    text = "\n".join([one.reason, *one.details, f"{one.rule.who} can mend it: {one.rule.fix}" if one.rule.fix else ""]).strip()
    kind = {Outcome.DRIFT: "failure", Outcome.UNREACHABLE: "error"}.get(one.outcome)
    if kind:
        SubElement(case, kind, message=f"{one.rule.title}: {one.reason}", type=one.rule_id).text = text
    elif one.outcome is Outcome.PLANNED:
        SubElement(case, "system-out").text = text
