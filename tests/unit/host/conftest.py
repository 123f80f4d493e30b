import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fakeparent import FakeParent, short_folder
from realsystemd import unavailable


@pytest.fixture
def fake_parent():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    parent = FakeParent(short_folder("f"))
    yield parent
    parent.close()
    shutil.rmtree(parent.folder)


@pytest.fixture
def booted_parent(fake_parent):
    """With a systemd that runs."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    fake_parent.boot()
    return fake_parent
