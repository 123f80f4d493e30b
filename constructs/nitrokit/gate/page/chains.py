"""The certificates of many documents, for a table that people can read: those that are shared one by one, those of single hosts and enclaves by their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LEVELS = ("root", "Region", "zone", "instance", "enclave")
"""What the certificates of a Nitro document are of, from the root (AWS Nitro Enclaves "Attestation process", cabundle)."""
_ONE_BY_ONE = 4


@dataclass(frozen=True)
class Certificates:
    """A row: one certificate, or (without ``subject`` and ``sha256``) several of one level with the dates that hold for all: the latest beginning and the earliest end."""

    title: str
    not_before: str
    not_after: str
    enclaves: int
    subject: str = ""
    sha256: str = ""


def summarize(chains: Sequence[Sequence[Mapping[str, Any]]]) -> list[Certificates]:
    """Rows from the root to the enclaves. ``chains``: of each document, the root first."""
    return [row for level in range(max(map(len, chains), default=0)) for row in _rows(level, chains)]


def _rows(level: int, chains: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[Certificates]:
    here = [chain[level] for chain in chains if len(chain) > level]
    used = Counter(str(one["sha256"]) for one in here)
    distinct = sorted({str(one["sha256"]): one for one in here}.values(), key=lambda one: str(one["not_before"]))
    name = _LEVELS[level] if level < len(_LEVELS) else f"level {level}"
    if len(distinct) > _ONE_BY_ONE:
        begins, ends = max(str(one["not_before"]) for one in here), min(str(one["not_after"]) for one in here)
        yield Certificates(f"{len(distinct)} certificates: {name}", begins, ends, len(here))
        return
    for one in distinct:
        yield Certificates(
            name, str(one["not_before"]), str(one["not_after"]), used[str(one["sha256"])], str(one["subject"]), str(one["sha256"])
        )
