"""The emulated parent instance: what Systems Manager does on it."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nitrokit.emulation.interfaces import InstanceDescription
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


def test_commands_that_run_side_by_side_run_their_own_scripts(instance):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: instance.run_script(f"sleep 0.1; echo {number}", {}, 60), range(8)))
    assert [(one.exit_code, one.stdout) for one in results] == [(0, f"{number}\n") for number in range(8)]
    assert not list(instance._folder.glob("tmp/ssm-*")), "and leave nothing behind"
