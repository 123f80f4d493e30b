"""SARIF 2.1.0, for code scanning. Source: OASIS "Static Analysis Results Interchange Format (SARIF) Version 2.1.0"; GitHub Docs "SARIF support for code scanning"."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from nitrokit._version import __version__
from nitrokit.gate.report import Comparison, GateReport, Outcome, outcome_of
from nitrokit.gate.rules import RULES
from nitrokit.gate.spool import json_pieces, streamed

_LEVELS = {Outcome.DRIFT: "error", Outcome.UNREACHABLE: "warning", Outcome.PLANNED: "note"}
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_HOME = "https://pypi.org/project/nitrokit/"


def render_sarif(report: GateReport) -> Iterator[str]:
    """One run: a result for everything that does not simply agree, a rule for each kind."""
    used = sorted(rule for rule in report.rules() if outcome_of(rule) in _LEVELS)
    driver = {"name": "nitrokit gate", "version": __version__, "informationUri": _HOME, "rules": [_rule(one) for one in used]}
    counts = report.counts()
    results = (_result(one, used.index(one.rule_id)) for one in report.worst_first() if one.outcome in _LEVELS)
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(report, counts[Outcome.UNREACHABLE])],
        "results": streamed(results, sum(counts[outcome] for outcome in _LEVELS)),
        "properties": {"verdict": report.verdict},
    }
    return json_pieces({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _invocation(report: GateReport, unreachable: int) -> dict[str, Any]:
    ended = {"executionSuccessful": not unreachable, "endTimeUtc": f"{report.time:%Y-%m-%dT%H:%M:%SZ}"}
    if not unreachable:
        return ended
    told = (
        {"level": "error", "message": {"text": f"{one.subject}: {one.reason}"}}
        for one in report.comparisons
        if one.outcome is Outcome.UNREACHABLE
    )
    return {**ended, "toolExecutionNotifications": streamed(told, unreachable)}


def _rule(rule_id: str) -> dict[str, Any]:
    rule = RULES[rule_id]
    help_text = {"text": f"{rule.who} can mend it: {rule.fix}"}
    return {"id": rule.id, "name": rule.id, "shortDescription": {"text": rule.title}, "help": help_text}


def _result(one: Comparison, index: int) -> dict[str, Any]:
    text = "\n".join([f"{one.subject}: {one.reason}", *one.details])
    # The same disagreement of two runs is one alert: what differs is part of it, the time is not.
    fingerprint = hashlib.sha256("\0".join([one.place, one.subject, one.rule_id, *one.details]).encode()).hexdigest()
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": one.subject, "kind": str(one.place)}]}
    if one.path:
        artifact = {"uri": PurePath(one.path).as_posix()}
        location["physicalLocation"] = {"artifactLocation": artifact, "region": {"startLine": 1}}
    return {
        "ruleId": one.rule_id,
        "ruleIndex": index,
        "level": _LEVELS[one.outcome],
        "message": {"text": text},
        "locations": [location],
        "partialFingerprints": {"nitrokitGate/v1": fingerprint},
        "properties": {"place": str(one.place), "image": one.image, "until": one.until.isoformat() if one.until else None},
    }
