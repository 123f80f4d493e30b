"""The app's life, in a process of its own: whoever reaps an app reaps all of its children."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else, which is what is tested")
SUPERVISED = """
import json, os, sys
from nitrokit.core.boot import Process
from nitrokit.runtime.logs import LogBuffer
from nitrokit.runtime.supervisor import Supervisor
command, user, policy, stop, kept = json.loads(sys.argv[1])
waited, logs = [], LogBuffer()
def sleep(seconds):
    waited.append(seconds)
    if len(waited) == 8:
        open(stop, "w").close()
app = Process(command, "/", *user, (), {"PATH": "/usr/bin:/bin"}, False, policy, None)
output = logs.append if kept else None
supervisor = Supervisor(app, root="/", extra={"EXTRA": "x"}, output=output, may_stay_root=False, say=logs.say, sleep=sleep)
supervisor.start()
code = supervisor.wait()
read = logs.read(0)
print(json.dumps({"code": code, "waited": waited, "state": supervisor.state(), "lines": [list(one) for one in zip(read["streams"], read["lines"])]}))
"""


def _supervise(script, *, user=None, policy="never", stop="/nowhere", kept=True):
    arguments = [["/bin/sh", "-c", script], user or [os.getuid(), os.getgid()], policy, str(stop), kept]
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISED, json.dumps(arguments)], capture_output=True, text=True, check=False, timeout=60, extra_groups=[7]
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_streams_are_told_apart_and_last_words_are_kept():
    found = _supervise("echo $EXTRA; echo two >&2; printf three; exit 3")
    assert found["code"] == 3
    assert sorted(found["lines"]) == [["init", "nitrokit: the app ended with 3"], ["stderr", "two"], ["stdout", "three"], ["stdout", "x"]]
    assert found["lines"][-1][0] == "init"


def test_an_app_that_is_not_root_may_open_what_it_prints_to_by_name():
    """/dev/stdout and /dev/stderr, as images' configurations name them, lead there."""
    found = _supervise("echo by name >/proc/self/fd/1; echo error >/proc/self/fd/2", user=[65534, 65534])
    assert sorted(found["lines"])[1:] == [["stderr", "error"], ["stdout", "by name"]]


def test_a_line_without_end_comes_in_pieces():
    found = _supervise("head -c 200000 /dev/zero | tr '\\0' a")
    assert [len(line) for stream, line in found["lines"] if stream == "stdout"] == [65536, 65536, 65536, 3392]


def test_output_that_nobody_may_read_costs_nothing():
    assert _supervise("head -c 100000000 /dev/zero", kept=False)["lines"] == [["init", "nitrokit: the app ended with 0"]]


@pytest.mark.parametrize(("policy", "waited"), [("never", []), ("on-failure", [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])])
def test_an_app_is_started_again_as_enclave_toml_says(policy, waited, tmp_path):
    stop = tmp_path / "enough"
    found = _supervise(f"test -e {stop}", policy=policy, stop=stop)
    assert (found["code"], found["waited"], found["state"]["restarts"]) == (0 if waited else 1, waited, len(waited))


def test_what_the_app_leaves_behind_ends_with_it(tmp_path):
    """A worker that outlives the app would hold its ports when it is started again."""
    found = _supervise("sleep 1000 & echo $!; kill -9 $$")
    assert found["code"] == -9
    worker = int(found["lines"][0][1])
    stat = Path(f"/proc/{worker}/stat")
    assert not stat.exists() or stat.read_text().split(") ")[1][0] == "Z"


def _status(found):
    return dict(line.split(":\t", 1) for stream, line in found["lines"] if stream == "stdout" and ":\t" in line)


def test_an_app_that_is_not_root_has_no_capability_and_no_group():
    status = _status(_supervise("cat /proc/self/status", user=[65534, 65534]))
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["Uid"].split(), status["Gid"].split(), status["Groups"].split()) == (["65534"] * 4, ["65534"] * 4, [])
    assert status["NoNewPrivs"] == "1"


def test_an_app_that_is_root_keeps_what_prepares_folders_and_nothing_that_leads_out():
    status = _status(_supervise("cat /proc/self/status", user=[0, 0]))
    kept = {number for number in range(64) if int(status["CapEff"], 16) >> number & 1}
    assert kept == {0, 1, 3, 4, 5, 6, 7, 8, 10}
    assert status["CapEff"] == status["CapBnd"]
