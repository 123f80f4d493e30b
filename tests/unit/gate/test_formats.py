"""The forms of a report, each read by something that others wrote; hostile strings stay text in all of them."""

import io
import json
import re
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import junitparser
import pytest
from markdown_it import MarkdownIt

from nitrokit.gate.formats import FORMATS, SUFFIXES
from nitrokit.gate.report import Comparison, GateReport, Place
from nitrokit.gate.rules import RULES

from .conftest import NOW

SCHEMA = Path(__file__).parents[3] / "node_modules/@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json"
HOSTILE = "<script>alert(1)</script> | a `b` \x1b[2J\x00\n::error::x %0A ]]> & \u202e \ud800 @team [l](javascript:1)"


def _one(place, rule, **more):
    return Comparison(place, more.pop("subject", "i-0123/hello"), rule, more.pop("reason", "because"), **more)


REPORT = GateReport(
    NOW,
    {"hello": {"Measurements": {}}},
    (
        _one(Place.LOCK, "agrees", image="hello"),
        _one(
            Place.REBUILD,
            "rebuild-differs",
            path="enclave_images/hello/measurements.json",
            details=("PCR0 locked a got b", "ramdisk1: mode x"),
        ),
        _one(Place.KEY, "planned-rollover", until=NOW + timedelta(days=3)),
        _one(Place.ENCLAVE, "unreachable"),
    ),
)
FINE = GateReport(NOW, {}, tuple(REPORT.comparisons)[:1])
WILD = GateReport(
    NOW, {HOSTILE: HOSTILE}, tuple(_one(Place.HOST, rule, subject=HOSTILE, reason=HOSTILE, details=(HOSTILE,) * 60) for rule in RULES)
)


def _text(name, report):
    return "".join(FORMATS[name](report))


@pytest.mark.parametrize(
    ("rules", "verdict", "code"),
    [
        (["agrees"], "PASS", 0), (["agrees", "planned-rollover"], "PASS", 0), (["agrees", "unreachable"], "UNREACHABLE", 3), (["unreachable", "unknown-set"], "FAIL", 1),
        (["set-past-date"], "FAIL", 1), ([], "UNREACHABLE", 3),
    ],
)  # fmt: skip
def test_the_verdict(rules, verdict, code):
    report = GateReport(NOW, {}, tuple(_one(Place.KEY, rule) for rule in rules))
    assert (report.verdict, report.exit_code) == (verdict, code)


def test_json_tells_a_pipeline_everything():
    value = json.loads(_text("json", REPORT))
    comparisons = value.pop("comparisons")
    assert value == {
        "verdict": "FAIL", "time": NOW.isoformat(), "counts": {"agrees": 1, "planned": 1, "unreachable": 1, "drift": 1}, "images": {"hello": {"Measurements": {}}},
    }  # fmt: skip
    assert [(one["place"], one["outcome"]) for one in comparisons] == [
        ("lock", "agrees"), ("rebuild", "drift"), ("key", "planned"), ("enclave", "unreachable"),
    ]  # fmt: skip
    assert comparisons[1] == {
        "place": "rebuild", "subject": "i-0123/hello", "image": None, "outcome": "drift", "rule": "rebuild-differs", "reason": "because",
        "details": ["PCR0 locked a got b", "ramdisk1: mode x"], "who": RULES["rebuild-differs"].who, "fix": RULES["rebuild-differs"].fix,
        "path": "enclave_images/hello/measurements.json", "until": None, "evidence": None,
    }  # fmt: skip
    assert comparisons[2]["until"] == (NOW + timedelta(days=3)).isoformat()


@pytest.mark.parametrize(
    ("place", "rule", "verdict"),
    [
        (Place.ENCLAVE, "planned-rollover", "FAIL"), (Place.KEY, "planned-rollover", "FAIL"), (Place.LOCK, "planned-rollover", "PASS"),
        (Place.KEY, "agrees", "PASS"), (Place.KEY, "unreachable", "UNREACHABLE"),
    ],
)  # fmt: skip
def test_where_a_rollover_must_be_settled_only_the_lock_may_announce_it(place, rule, verdict):
    report = GateReport(NOW, {}, (_one(Place.LOCK, "agrees"), _one(place, rule)), settled=True)
    assert report.verdict == verdict


@pytest.mark.parametrize("report", [REPORT, FINE, WILD])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_renders_every_report_and_can_be_written(name, report):
    assert _text(name, report).encode("utf-8", "strict").endswith(b"\n")


@pytest.mark.skipif(not SCHEMA.exists(), reason="the SARIF schema comes with node_modules: make setup")
@pytest.mark.parametrize("report", [REPORT, FINE, WILD])
def test_sarif_is_valid_by_its_published_schema(report):
    log = json.loads(_text("sarif", report))
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(log)
    (run,) = log["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_sarif_names_the_file_and_the_same_drift_is_the_same_alert():
    (run,) = json.loads(_text("sarif", REPORT))["runs"]
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "enclave_images/hello/measurements.json"
    assert run["invocations"][0]["executionSuccessful"] is False
    later = GateReport(NOW + timedelta(days=1), {}, REPORT.comparisons)
    prints = [
        [one["partialFingerprints"] for one in json.loads(_text("sarif", report))["runs"][0]["results"]] for report in (REPORT, later)
    ]
    assert prints[0] == prints[1]
    assert len({json.dumps(one) for one in prints[0]}) == 3


def test_junit_is_read_by_junitparser_with_its_counts():
    xml = junitparser.JUnitXml.fromfile(io.BytesIO(_text("junit", REPORT).encode()))
    assert (xml.tests, xml.failures, xml.errors) == (4, 1, 1)
    assert {suite.name: len(suite) for suite in xml} == {"lock": 1, "rebuild": 1, "key": 1, "enclave": 1}
    (case,) = next(suite for suite in xml if suite.name == "rebuild")
    assert isinstance(case.result[0], junitparser.Failure)
    assert "ramdisk1: mode x" in case.result[0].text
    wild = junitparser.JUnitXml.fromfile(io.BytesIO(_text("junit", WILD).encode()))
    assert wild.tests == len(RULES)


ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "timestamp"},
    "testcase": {"name", "time", "classname"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "system-out": set(),
}
"""Element → its attributes, of those that Jenkins' schema allows (jenkinsci/xunit-plugin, junit-10.xsd; it is no part of a package that could be pinned)."""


@pytest.mark.parametrize("report", [REPORT, FINE, WILD])
def test_junit_has_the_elements_and_attributes_that_jenkins_allows(report):
    for element in ElementTree.fromstring(_text("junit", report)).iter():
        assert set(element.attrib) == ALLOWED[element.tag], element.tag


def test_annotations_are_one_command_a_line_whatever_a_host_says():
    lines = _text("github", REPORT).splitlines()
    assert lines[0].startswith("::error file=enclave_images/hello/measurements.json,line=1,title=")
    assert [line.split(" ")[0] for line in lines[:3]] == ["::error", "::error", "::notice"]
    wild = _text("github", WILD).split("\n")[:-1]
    assert len(wild) == len(RULES) - 1 + 1
    assert all(re.match(r"::(error|notice) [^:\n]*::", line) for line in wild[:-1])
    assert not wild[-1].startswith("::")


def test_the_summary_holds_its_table_together():
    text = _text("markdown", WILD)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
    assert "<script" not in text
    assert "@team" not in text
    assert "](javascript" not in text
    fleet = GateReport(NOW, {}, (*tuple(REPORT.comparisons)[:1] * 400, *REPORT.comparisons))
    cut = _text("markdown", fleet)
    assert "354 more rows" in cut
    assert "rebuild-differs" not in cut
    assert "the source does not build what is locked" in cut


def test_a_markdown_parser_finds_no_markup_in_what_a_host_says():
    parsed = MarkdownIt("commonmark", {"html": True}).enable("table").parse(_text("markdown", WILD))
    inline = {child.type for token in parsed if token.type == "inline" for child in token.children or ()}
    assert inline == {"text"}
    assert all(
        re.fullmatch(r"</?(details|summary)>.*", line) or "<" not in line
        for token in parsed
        if token.type == "html_block"
        for line in token.content.splitlines()
    )
    rows = [token.type for token in parsed if token.type in ("tr_open", "td_open", "th_open")]
    assert (rows.count("tr_open"), rows.count("td_open")) == (len(RULES) + 1, 5 * len(RULES))


def test_the_table_moves_no_cursor_and_says_who_can_mend_it():
    assert "\x1b" not in _text("table", WILD)
    text = _text("table", REPORT)
    assert text.startswith("FAIL  1 agrees, 1 planned, 1 unreachable, 1 drift")
    assert "image's maintainer can mend it: find out what changed" in text
    assert text.index("✗") < text.index("?") < text.index("~") < text.index("✓")


def test_every_rule_stands_in_the_docs_as_the_source_has_it():
    page = (Path(__file__).parents[3] / "docs" / "gate.md").read_text()
    for rule in RULES.values():
        assert f"| `{rule.id}` | {rule.title} | {rule.who or '–'} | {rule.fix or '–'} |" in page


def test_json_has_everything():
    value = json.loads(_text("json", REPORT))
    assert (value["verdict"], value["counts"]) == ("FAIL", {"agrees": 1, "planned": 1, "unreachable": 1, "drift": 1})
    assert value["comparisons"][1]["who"] == "image's maintainer"
    assert set(SUFFIXES.values()) < set(FORMATS)
