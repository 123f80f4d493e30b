"""The emulated parent instance: what Systems Manager does on it."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nitrokit.emulation.interfaces import EmulationError, InstanceDescription
from nitrokit.emulation.nitro.instance import EmulatedInstance
from nitrokit.emulation.nitro.runners import ProcessRunner


@pytest.fixture
def instance(pki):
    description = InstanceDescription("i-0123456789abcdef0", "us-east-1", "123456789012", None, True, {}, {})
    folder = Path("/tmp") / f"nki{os.getpid()}"
    made = EmulatedInstance(description, folder, pki=pki, tls_authorities="", runner=ProcessRunner("test"), now=lambda: datetime.now(UTC))
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_an_instance_without_bubblewrap_is_refused_before_it_has_a_folder(pki, tmp_path, monkeypatch):
    """Under QEMU nobody needs it until something first runs on an instance."""
    runner = ProcessRunner("test")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError) as caught:
        description = InstanceDescription("i-0123456789abcdef0", "us-east-1", "123456789012", None, True, {}, {})
        EmulatedInstance(description, tmp_path / "i", pki=pki, tls_authorities="", runner=runner, now=lambda: datetime.now(UTC))
    assert (caught.value.code, caught.value.do) == ("emulation/no-bwrap", "apt-get install bubblewrap")
    assert list(tmp_path.iterdir()) == []


def test_commands_that_run_side_by_side_run_their_own_scripts(instance):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: instance.run_script(f"sleep 0.1; echo {number}", {}, 60), range(8)))
    assert [(one.exit_code, one.stdout) for one in results] == [(0, f"{number}\n") for number in range(8)]
    assert not list(instance._folder.glob("tmp/ssm-*")), "and leave nothing behind"
