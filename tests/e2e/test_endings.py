"""However the demo ends, nothing of it goes on running; and two of them do not meet."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def _start(stderr):
    environment = {**os.environ, "PATH": os.pathsep.join([str(ROOT / "node_modules/.bin"), os.environ["PATH"]])}
    command = [sys.executable, "-m", "nitrokit.cli", "local", "demo", "--runner", "process", "--json"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def _folder_of(started):
    """The work folder of the demo that was started then."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for folder in Path("/tmp").glob("nk-*"):
            if folder.stat().st_mtime >= started:
                return folder
        time.sleep(0.1)
    raise AssertionError("the demo made no work folder")


def _users_of(folder):
    """Processes whose command line names the folder."""
    users = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                users.append(entry.name)
        except OSError:
            continue
    return users


def _wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def _enclave_runs(folder):
    return any(
        b"bwrap" in (Path("/proc") / user / "cmdline").read_bytes() and b"/run/vsock/0" in (Path("/proc") / user / "cmdline").read_bytes()
        for user in _users_of(folder)
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)], ids=["Ctrl-C", "SIGTERM", "kill -9"]
)
def test_an_interrupted_demo_leaves_nothing_running(number, code, tmp_path):
    started = time.time()
    with (tmp_path / "stderr").open("w") as stderr:
        process = _start(stderr)
    folder = _folder_of(started)
    assert _wait_for(lambda: _enclave_runs(folder), 120), (tmp_path / "stderr").read_text()
    process.send_signal(number)
    assert process.wait(timeout=40) == code
    assert _wait_for(lambda: not _users_of(folder), 20), _users_of(folder)
    text = (tmp_path / "stderr").read_text()
    assert "Traceback" not in text
    if number == signal.SIGKILL:
        shutil.rmtree(folder)
    assert not folder.exists()


def test_two_demos_run_side_by_side():
    processes = [_start(subprocess.DEVNULL) for _ in range(2)]
    codes = [process.communicate(timeout=400) and process.returncode for process in processes]
    assert codes == [0, 0]
