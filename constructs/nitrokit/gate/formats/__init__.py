"""The report in the forms that people and pipelines read. Each format is a function from a report to a text, in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nitrokit.gate.formats.github import render_github
from nitrokit.gate.formats.junit import render_junit
from nitrokit.gate.formats.markdown import render_markdown
from nitrokit.gate.formats.sarif import render_sarif
from nitrokit.gate.formats.table import render_table
from nitrokit.gate.report import GateReport, Render
from nitrokit.gate.spool import json_pieces, streamed


def render_json(report: GateReport) -> Iterator[str]:
    """The report whole."""
    comparisons = streamed((one.as_dict() for one in report.comparisons), sum(report.counts().values()))
    return json_pieces({**report.summary(), "comparisons": comparisons})


FORMATS: Mapping[str, Render] = {
    "table": render_table,
    "json": render_json,
    "sarif": render_sarif,
    "junit": render_junit,
    "github": render_github,
    "markdown": render_markdown,
}
SUFFIXES = {".txt": "table", ".json": "json", ".sarif": "sarif", ".xml": "junit", ".md": "markdown"}
"""A file's suffix → the format that is written into it."""
