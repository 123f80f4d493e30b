"""The gate over 10,000 simulated enclaves: what a thousand cost, that ten thousand cost ten times as much, and that they take no more memory.

Each enclave has a leaf of its own under one PKI, and a document for its own nonce; Systems Manager is played, since its pace is AWS's. Everything else is the gate's own way. Each size runs
in a process of its own, so that its peak is its own; the played documents lie on disk.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
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
from nitrokit.gate.report import GateReport
from nitrokit.gate.spool import Spool
from nitrokit.handlers.hosts import Answer, Hosts
from nitrokit.handlers.settings import Fleet

ROLE = "arn:aws:iam::123456789012:role/host"
SET = Measurements(digest([b"0"]), digest([b"1"]), digest([b"2"]))
IMAGE = LockedImage(Path("enclave_images/hello"), "hello", ReferenceValues(SET), {})
BASE = bytes(32)
Row = tuple[str, str, str]


class PlayedSystemsManager:
    """Systems Manager over enclaves whose documents are made beforehand: what is measured is the gate."""

    exceptions = SimpleNamespace(InvalidInstanceId=LookupError, InvocationDoesNotExist=KeyError)

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, 0

    def send_command(self, **_: Any) -> dict[str, Any]:
        self.commands += 1
        return {"Command": {"CommandId": str(self.commands)}}

    def get_command_invocation(self, *, CommandId: str, InstanceId: str) -> dict[str, str]:
        return {"Status": "Success", "StandardOutputContent": (self.folder / InstanceId).read_text(), "StandardErrorContent": ""}


def main() -> None:
    """Print a table; with --json a file too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enclaves", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help="measure this size alone, as JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(_measure(options.enclaves)))
        return
    rows = list(_rows(options.enclaves // 10, options.enclaves))
    for what, value, beside in rows:
        print(f"{what:<58} {value:>12}   {beside}")
    if options.json:
        options.json.write_text(
            json.dumps([{"what": what, "value": value, "beside": beside} for what, value, beside in rows], indent=2) + "\n"
        )


def _rows(few: int, many: int) -> Iterator[Row]:
    small, large = (
        json.loads(subprocess.run([sys.executable, __file__, "--alone", "--enclaves", str(size)], capture_output=True, check=True).stdout)
        for size in (few, many)
    )
    yield f"gate, {few:,} enclaves", f"{small['gate']:.2f} s", f"{small['gate'] / few * 1e6:.0f} µs each"
    yield (
        f"gate, {many:,} enclaves",
        f"{large['gate']:.2f} s",
        f"{large['gate'] / small['gate'] / (many / few):.2f} × linear; {large['gate'] / many * 1000:.2f} s a thousand",
    )
    for name, (seconds, size) in large["forms"].items():
        yield f"{name}, {many:,} enclaves", f"{seconds:.2f} s", f"{size / 1e6:.1f} MB; {seconds / many * 1000:.3f} s a thousand"
    yield f"peak memory, {few:,} enclaves and all forms", f"{small['peak']:.0f} MB", f"{small['before']:.0f} MB before"
    yield f"peak memory, {many:,} enclaves and all forms", f"{large['peak']:.0f} MB", f"{large['peak'] / small['peak']:.2f} × as much"


def _measure(enclaves: int) -> dict[str, Any]:
    """CPU seconds and megabytes of one size."""
    pki = EmulatedPki(lambda: datetime.now(UTC))
    with tempfile.TemporaryDirectory(prefix="nitrokit-bench-") as folder:
        # In a process of its own, whose memory is not the gate's.
        making = multiprocessing.get_context("fork").Process(target=_write_documents, args=(pki, Path(folder), enclaves))
        making.start()
        making.join()
        instances = sorted(path.name for path in Path(folder).iterdir())
        before, started = _peak(), time.process_time()
        report = _compare(pki, Path(folder), instances)
        gate = time.process_time() - started
    assert (report.verdict, report.counts()["agrees"]) == ("PASS", enclaves)
    forms = {}
    for name, render in FORMATS.items():
        started = time.process_time()
        size = sum(map(len, render(report)))
        forms[name] = (time.process_time() - started, size)
    return {"gate": gate, "forms": forms, "before": before, "peak": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write_documents(pki: EmulatedPki, folder: Path, enclaves: int) -> None:
    for number in range(enclaves):
        _write_document(pki, folder, number)


def _write_document(pki: EmulatedPki, folder: Path, number: int) -> None:
    instance = f"i-{number:017x}"
    nsm = EmulatedNsm(
        module_id=f"{instance}-enc{number:016x}", measurements=SET, role_arn=ROLE, debug=False, pki=pki, now=lambda: datetime.now(UTC)
    )
    document = NsmClient(nsm.answer).attestation(nonce=enclave_nonce(BASE, instance, "hello"))
    (folder / instance).write_text(json.dumps({"document": base64.b64encode(document).decode()}))


def _compare(pki: EmulatedPki, folder: Path, instances: list[str]) -> GateReport:
    fleet = Fleet("hello", "attest", ROLE, {}, IMAGE.values)
    hosts = Hosts(PlayedSystemsManager(folder), None, sleep=lambda _: None)
    judge, now = Judge(pki.trust_anchor, ChainCache()), datetime.now(UTC)
    answers = map(_renonced, hosts.ask(fleet, instances))
    found = Spool(judge.compare(answers, Expected(IMAGE, "us-east-1", ROLE), lambda: now))
    return GateReport(now, {"hello": json.loads(IMAGE.values.to_json())}, found)


def _renonced(answer: Answer) -> Answer:
    """Documents were made for one base; a real command has a fresh one each time."""
    return Answer(answer.instance_id, enclave_nonce(BASE, answer.instance_id, "hello"), answer.document, answer.reason)


if __name__ == "__main__":
    main()
