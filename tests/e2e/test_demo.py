"""The end-to-end test is the demo itself, once per runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _has_qemu():
    from nitrokit.cli.doctor import _qemu

    return _qemu().state == "ok"


@pytest.mark.e2e
@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(
            "qemu", marks=pytest.mark.skipif(not _has_qemu(), reason="no QEMU with the nitro-enclave machine (NITROKIT_QEMU, PATH)")
        ),
        "process",
    ],
)
@pytest.mark.timeout(1500)
def test_the_demo_holds_every_expectation(runner, qemu_at):
    # In 2020: TLS and SigV4 fail unless the runtime follows the hypervisor's clock.
    before = {path.name for path in Path("/tmp").glob("nk-*")}
    skewed = {"NITROKIT_QEMU": qemu_at("2020-01-01T00:00:00")} if runner == "qemu" else {}
    environment = {**os.environ, **skewed, "PATH": os.pathsep.join([str(ROOT / "node_modules/.bin"), os.environ["PATH"]])}
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", "local", "demo", "--runner", runner, "--json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-3000:]
    report = json.loads(done.stdout)
    assert report["ok"] is True
    got = {(one["actor"], one["got"]) for one in report["expectations"]}
    assert ("enclave", "allowed") in got
    assert ("parent instance", "denied") in got
    assert ("parent instance", "no secret") in got
    assert ("attestation Lambda", "PASS") in got
    assert ("attestation Lambda", "FAIL PCR0 PCR2") in got
    assert ("host agent", "refused") in got
    assert ("changed enclave", "denied") in got
    assert ("debug-mode enclave", "denied") in got
    assert {path.name for path in Path("/tmp").glob("nk-*")} <= before, "the demo left its work folder behind"
