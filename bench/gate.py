"""The gate over 10,000 simulated enclaves: what a thousand cost, that ten thousand cost ten times as much, and what a report of them keeps in memory.

Each enclave has a leaf of its own under one PKI, and a document for its own nonce; Systems Manager is played, since its pace is AWS's. Everything else is the gate's own way.
"""

from __future__ import annotations

import argparse
import base64
import json
import resource
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nitrokit.core.attestation import ChainCache
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.nonces import enclave_nonce
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.emulation.nitro.nsm import EmulatedNsm
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.gate.enclaves import Expected, Judge
from nitrokit.gate.formats import FORMATS
from nitrokit.gate.locks import LockedImage
from nitrokit.gate.page.render import render_page
from nitrokit.gate.report import GateReport
from nitrokit.handlers.hosts import Answer, Hosts
from nitrokit.handlers.settings import Fleet

ROLE = "arn:aws:iam::123456789012:role/host"
SET = Measurements(digest([b"0"]), digest([b"1"]), digest([b"2"]))
IMAGE = LockedImage(Path("enclave_images/hello"), "hello", ReferenceValues(SET), {})
Row = tuple[str, str, str]


class PlayedSystemsManager:
    """Systems Manager over enclaves whose documents are made beforehand: what is measured is the gate."""

    exceptions = SimpleNamespace(InvalidInstanceId=LookupError, InvocationDoesNotExist=KeyError)

    def __init__(self, documents: dict[str, str]) -> None:
        self.documents, self.commands = documents, 0

    def send_command(self, **_: Any) -> dict[str, Any]:
        self.commands += 1
        return {"Command": {"CommandId": str(self.commands)}}

    def get_command_invocation(self, *, CommandId: str, InstanceId: str) -> dict[str, str]:
        return {"Status": "Success", "StandardOutputContent": self.documents[InstanceId], "StandardErrorContent": ""}


def main() -> None:
    """Print a table; with --json a file too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enclaves", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pki = EmulatedPki(lambda: datetime.now(UTC))
    base = bytes(32)
    documents = dict(_document(pki, base, number) for number in range(options.enclaves))
    rows = list(_rows(pki, base, documents))
    for what, value, beside in rows:
        print(f"{what:<58} {value:>12}   {beside}")
    if options.json:
        options.json.write_text(
            json.dumps([{"what": what, "value": value, "beside": beside} for what, value, beside in rows], indent=2) + "\n"
        )


def _document(pki: EmulatedPki, base: bytes, number: int) -> tuple[str, str]:
    instance = f"i-{number:017x}"
    nsm = EmulatedNsm(
        module_id=f"{instance}-enc{number:016x}", measurements=SET, role_arn=ROLE, debug=False, pki=pki, now=lambda: datetime.now(UTC)
    )
    document = NsmClient(nsm.answer).attestation(nonce=enclave_nonce(base, instance, "hello"))
    return instance, json.dumps({"document": base64.b64encode(document).decode()})


def _rows(pki: EmulatedPki, base: bytes, documents: dict[str, str]) -> Iterator[Row]:
    few, many = len(documents) // 10, len(documents)
    small, large = (_run(pki, base, dict(list(documents.items())[:size])) for size in (few, many))
    yield f"gate, {few:,} enclaves", f"{small[0]:.2f} s", f"{small[0] / few * 1e6:.0f} µs each"
    yield (
        f"gate, {many:,} enclaves",
        f"{large[0]:.2f} s",
        f"{large[0] / small[0] / (many / few):.2f} × linear; {large[0] / many * 1000:.2f} s a thousand",
    )
    yield "kept for an enclave in the report", f"{large[1] / many:,.0f} bytes", f"{small[1] / few:,.0f} bytes with {few:,}"
    for name, render in {**FORMATS, "html": _html}.items():
        started = time.process_time()
        text = render(large[2])
        yield f"{name}, {many:,} enclaves", f"{time.process_time() - started:.2f} s", f"{len(text) / 1e6:.1f} MB"
    yield "peak memory of it all", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB", "the played documents included"


def _html(report: GateReport) -> str:
    return render_page(report.as_dict(), made=report.time)


def _run(pki: EmulatedPki, base: bytes, documents: dict[str, str]) -> tuple[float, int, GateReport]:
    """Seconds of CPU, bytes kept, and the report. What is kept is traced in a second run: tracing is slow."""
    started = time.process_time()
    report = _compare(pki, base, documents)
    seconds = time.process_time() - started
    assert report.verdict == "PASS", report.comparisons[0].reason
    tracemalloc.start()
    second = _compare(pki, base, documents)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, kept, second


def _compare(pki: EmulatedPki, base: bytes, documents: dict[str, str]) -> GateReport:
    fleet = Fleet("hello", "attest", ROLE, {}, IMAGE.values)
    hosts = Hosts(PlayedSystemsManager(documents), None, sleep=lambda _: None)
    judge, now = Judge(pki.trust_anchor, ChainCache()), datetime.now(UTC)
    answers = (_renonced(answer, base) for answer in hosts.ask(fleet, list(documents)))
    found = tuple(judge.compare(answers, Expected(IMAGE, "us-east-1", ROLE), lambda: now))
    return GateReport(now, {"hello": json.loads(IMAGE.values.to_json())}, found)


def _renonced(answer: Answer, base: bytes) -> Answer:
    """Documents were made for one base; a real command has a fresh one each time."""
    return Answer(answer.instance_id, enclave_nonce(base, answer.instance_id, "hello"), answer.document, answer.reason)


if __name__ == "__main__":
    main()
