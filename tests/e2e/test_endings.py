"""However the demo ends, nothing of it goes on running; and two of them do not meet."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nitrokit.image.fetch import cache_dir
from nitrokit.image.kernel import find_kernel

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", autouse=True)
def _kernel():
    """Else the first demo would build it, which takes longer than these tests wait for its enclave."""
    find_kernel(os.environ, cache_dir(os.environ), lambda _: None, ROOT / "enclave_images/kernel")


def _heed_ctrl_c():
    """A shell starts what it puts into the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _start(stderr):
    environment = {**os.environ, "PATH": os.pathsep.join([str(ROOT / "node_modules/.bin"), os.environ["PATH"]])}
    command = [sys.executable, "-m", "nitrokit.cli", "local", "demo", "--runner", "process", "--json"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=_heed_ctrl_c)


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
    """What the condition gives, once it is true; None where it is not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    return None


def _descendants(process):
    """Command lines of what a process started, in any thread, and of what that did."""
    with suppress(OSError):  # one that ended meanwhile
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
                yield from _descendants(child)


def _work_folder(process):
    """The demo's folder, once its enclave runs."""
    for command in _descendants(process.pid):
        if "bwrap" in command and "/run/vsock/0" in command and (found := re.search("/tmp/nk-[^/\0]+", command)):
            return Path(found[0])
    return None


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)], ids=["Ctrl-C", "SIGTERM", "kill -9"]
)
def test_an_interrupted_demo_leaves_nothing_running(number, code, tmp_path):
    with (tmp_path / "stderr").open("w") as stderr:
        process = _start(stderr)
    folder = _wait_for(lambda: _work_folder(process), 200)
    assert folder, (tmp_path / "stderr").read_text()
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert _wait_for(lambda: not _users_of(folder), 60), _users_of(folder)
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    if number == signal.SIGKILL:
        shutil.rmtree(folder)
    assert not folder.exists()


def test_two_demos_run_side_by_side():
    processes = [_start(subprocess.DEVNULL) for _ in range(2)]
    codes = [process.communicate(timeout=400) and process.returncode for process in processes]
    assert codes == [0, 0]
