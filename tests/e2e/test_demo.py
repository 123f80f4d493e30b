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


def _demo(*options, cwd=None, **environment):
    """The demo as a user runs it."""
    path = os.pathsep.join([str(ROOT / "node_modules/.bin"), os.environ["PATH"]])
    command = [sys.executable, "-m", "nitrokit.cli", "local", "demo", "--json", *options]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment, "PATH": path}, capture_output=True, text=True, check=False)


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
    done = _demo("--runner", runner, cwd=ROOT, **skewed)
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


@pytest.mark.e2e
def test_a_demo_whose_app_does_not_synthesise_says_why_and_where_to_read_on(tmp_path):
    (tmp_path / "app.py").write_text('raise SystemExit("no stack today")\n')
    (tmp_path / "cdk.json").write_text(json.dumps({"app": f"{sys.executable} app.py"}))
    before = {path.name for path in Path("/tmp").glob("nk-*")}
    options = ["--runner", "process", "--app", tmp_path, "--image", ROOT / "enclave_images/hello"]
    done = _demo(*options)
    report, told = json.loads(done.stdout), json.loads(done.stderr[done.stderr.index("{\n") :])["error"]
    assert (done.returncode, report["ok"], told["code"]) == (1, False, "demo/unmet"), done.stderr
    assert told["what"] == f"1 of {len(report['expectations'])} expectations did not hold"
    assert "no stack today" in told["got"] and "bootstrapped" not in told["got"], "what cdk deploy said, and not what went before"
    assert "--keep" in told["do"] and "/tmp/nk-" not in done.stderr, "what is removed is no place to read"
    assert {path.name for path in Path("/tmp").glob("nk-*")} <= before
    kept = tmp_path / "kept"
    done = _demo(*options, "--keep", kept)
    assert (done.returncode, "no stack today" in (kept / "cdk.log").read_text()) == (1, True)
