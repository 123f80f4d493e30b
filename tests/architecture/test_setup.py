"""What `make` says on a machine that lacks things: one plain line, and nothing is installed or half set up."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("python", "told"),
    [("python3.99", "no python3.99 here: set PYTHON"), ("python3", "nitrokit's make targets need a Debian system with:")],
)
def test_what_is_missing_is_named(tmp_path, python, told):
    for name in ("sh", "id", "python3"):
        (tmp_path / name).symlink_to(shutil.which(name))
    script = [str(shutil.which("sh")), str(ROOT / ".ci" / "system-packages")]
    done = subprocess.run(
        script,
        env={"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/"), "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(told), done.stderr
