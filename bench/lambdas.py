"""The Lambdas: what importing each costs above the runtime, how large its asset is, and a check over thousands of simulated enclaves.

Ratios and shapes are what counts: the cost of each thousand against that of the first, and the memory of all against that of a tenth. Making a simulated document costs more than
checking it; its time is taken out.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nitrokit.cdk.bundling import bundle
from nitrokit.cdk.closures import CLOSURES
from nitrokit.core.attestation import ChainCache
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.nonces import enclave_nonce
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.emulation.nitro.nsm import EmulatedNsm
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.handlers.checker import Checker, Reporting
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.run_state import RunState, Trigger
from nitrokit.handlers.settings import Fleet

ROLE = "arn:aws:iam::123456789012:role/host"
MEASUREMENTS = Measurements(digest([b"0"]), digest([b"1"]), digest([b"2"]))
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def best(command: list[str], environment: dict[str, str], times: int = 7) -> float:
    """CPU milliseconds of the cheapest of some runs: an import waits for nothing, and a busy machine makes the clock's time longer, hardly this."""
    found = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found) * 1000


def cold_starts(work: Path) -> None:
    print(
        "\ncold start: CPU of importing the handler above the Lambda runtime's own client (awslambdaric), without bytecode, as in a function"
    )
    machine = os.uname().machine.replace("aarch64", "arm64")
    for name in CLOSURES:
        asset = bundle(name, python=HERE, architecture=machine)
        folder = work / name
        shutil.unpack_archive(asset, folder)
        environment = {"PATH": os.defpath, "AWS_DEFAULT_REGION": "us-east-1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
        runtime = best([sys.executable, "-c", "import awslambdaric.bootstrap"], environment)
        whole = best([sys.executable, "-c", "import awslambdaric.bootstrap, index"], environment)
        boto = best([sys.executable, "-c", "import awslambdaric.bootstrap, boto3"], environment)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
        ratio, zipped = (whole - runtime) / (boto - runtime), asset.stat().st_size / 2**20
        print(f"  {name:20} {whole - runtime:5.0f} ms, {ratio:.2f} × import boto3   asset {size:.1f} MiB, zipped {zipped:.1f}")


class Simulated:
    """Systems Manager in front of any number of enclaves, each made when it is asked and forgotten after: ``spent`` is what that cost."""

    exceptions = SimpleNamespace(InvalidInstanceId=KeyError, InvocationDoesNotExist=KeyError)

    def __init__(self) -> None:
        self.pki = EmulatedPki(lambda: datetime.now(UTC))
        self.bases: list[bytes] = []
        self.spent = 0.0

    def send_command(self, *, Parameters: dict[str, list[str]], **_: Any) -> dict[str, Any]:
        self.bases.append(base64.b64decode(Parameters["Nonce"][0]))
        return {"Command": {"CommandId": str(len(self.bases) - 1)}}

    def get_command_invocation(self, *, CommandId: str, InstanceId: str) -> dict[str, str]:
        start = time.process_time()
        nsm = EmulatedNsm(
            module_id=f"{InstanceId}-enc0",
            measurements=MEASUREMENTS,
            role_arn=ROLE,
            debug=False,
            pki=self.pki,
            now=lambda: datetime.now(UTC),
        )
        document = NsmClient(nsm.answer).attestation(nonce=enclave_nonce(self.bases[int(CommandId)], InstanceId, "hello"))
        vars(self.pki)["_instances"].clear()
        output = json.dumps({"document": base64.b64encode(document).decode()})
        self.spent += time.process_time() - start
        return {"Status": "Success", "StandardOutputContent": output, "StandardErrorContent": ""}


class Memory:
    """The state without DynamoDB: what is measured is ours."""

    def __init__(self) -> None:
        self.state, self.verdicts = RunState(), dict[str, Any]()

    def update(self, step: Callable[[RunState], RunState]) -> RunState:
        self.state = RunState.parse(step(self.state).to_json())
        return self.state

    def remembered(self, enclave: str, instance_ids: list[str]) -> dict[str, Any]:
        return {one: self.verdicts[one] for one in instance_ids if one in self.verdicts}

    def remember(self, enclave: str, changes: Any) -> None:
        self.verdicts.update(changes)


def check(count: int) -> float:
    """CPU milliseconds for a thousand enclaves of a fleet of ``count``."""
    simulated, hosts = Simulated(), tuple(f"i-{number:017x}" for number in range(count))
    fleet = Fleet("hello", "attest", ROLE, {"InstanceIds": hosts}, ReferenceValues(MEASUREMENTS))
    reporting = Reporting(lambda findings, time: None, lambda state: None, str, None)
    checker = Checker(
        [fleet], Hosts(simulated, None, sleep=lambda _: None), Memory(), reporting, simulated.pki.trust_anchor, datetime.now, timedelta(hours=1), ChainCache()  # type: ignore[arg-type]
    )  # fmt: skip
    start = time.process_time()
    status, state = checker.handle(Trigger("bench"), "bench", lambda: timedelta(hours=1), "run")
    spent = time.process_time() - start - simulated.spent
    assert (status, state.totals) == ("complete", {"hello": {"PASS": count}})
    return spent * 1000 / (count / 1000)


def checks() -> None:
    print(
        "\ncheck_enclaves: CPU of verifying, appraising and keeping the run's state, every host with a leaf and an instance certificate of its own"
    )
    first, memory = 0.0, 0
    for count in (1_000, 2_500, 5_000, 10_000):
        each = check(count)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        first, memory = first or each, memory or used
        print(f"  {count:6,} enclaves  {each:6.0f} ms a thousand ({each / first:.2f} × the first)  {used} MB ({used / memory:.2f} ×)")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        cold_starts(Path(work))
    checks()
