"""Units of an emulated parent, among many: one process serves the whole fleet."""

import os
import resource
import subprocess
import sys

import pytest

from nitrokit.emulation.nitro.units import ProgramUnit

_READY = "import os, socket, time; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET']); time.sleep(60)"
_SELECTABLE = 1024
"""FD_SETSIZE: select(2) takes no descriptor from there on."""


@pytest.fixture
def many_files():
    """As the fleet's hundredth parent finds the process: the next descriptor is a high one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2 * _SELECTABLE:
        pytest.skip(f"this user may open {hard} files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * _SELECTABLE, hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    while opened[-1] < _SELECTABLE:
        opened.append(os.open(os.devnull, os.O_RDONLY))
    yield
    for one in opened:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_unit_comes_up_where_a_thousand_files_are_open(many_files, tmp_path):
    def spawn(command, environment, output):
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        return process, process.pid

    text = f'[Service]\nType=notify\nExecStart={sys.executable} -c "{_READY}"\n'
    notify = tmp_path / "notify"
    unit = ProgramUnit("one", text, spawn, notify, str(notify), tmp_path / "journal")
    unit.start(wait=True)
    assert unit.active
    unit.kill()
    assert not unit.active
