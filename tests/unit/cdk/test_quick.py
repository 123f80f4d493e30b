"""What quick_synthesis sets, in a process of its own, and that Node.js takes it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nitrokit.cdk import quick

_APP = """
import atexit, gc, os, sys
from pathlib import Path
atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0, os.environ["NODE_OPTIONS"]))  # runs last
from nitrokit.cdk import quick
quick._FLAGS = Path(sys.argv[1]) if sys.argv[1:] else quick._FLAGS
quick.quick_synthesis()
"""
_FLAGS = Path(quick.__file__).with_name("quick.cjs")


def _options(*flags, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    command = [sys.executable, "-c", _APP, *map(str, flags)]
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=True)
    collects, frozen, options = done.stdout.removesuffix("\n").split(" ", 2)
    assert (collects, frozen) == ("False", "True")
    return options


def _node(script, options):
    done = subprocess.run(["node", "-e", script], env={**os.environ, "NODE_OPTIONS": options}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")  # V8 tells a flag that it does not know, and goes on
    return done.stdout


def test_node_takes_the_options_and_starts_no_more_threads_than_cores():
    options = _options()
    assert f"--v8-pool-size={min(4, os.cpu_count() or 1)}" in options.split()
    assert _node("console.log(Object.keys(require.cache).join())", options) == f"{_FLAGS}\n"


@pytest.mark.parametrize("folder", ["with a space", 'with "quotes"', "with\\backslash", "größer"])
def test_the_flags_of_v8_are_found_in_any_folder(tmp_path, folder):
    flags = tmp_path / folder / "quick.cjs"
    flags.parent.mkdir()
    flags.write_text("globalThis.found = 1")
    assert _node("console.log(found)", _options(flags)) == "1\n"


def test_v8_has_the_flag_and_optimises_earlier_by_itself():
    [(flag, value)] = re.findall(r'"(--[a-z-]+)=(\d+)"', _FLAGS.read_text())
    listed = subprocess.run(["node", "--v8-options"], capture_output=True, text=True, check=True).stdout
    [default] = re.findall(rf"default: {flag}=(\d+)", listed)
    assert int(default) * 10 < int(value) < 2**31


@pytest.mark.parametrize("given", ["--max-old-space-size=2048", ""])
def test_what_the_user_says_to_node_stays(given):
    assert _options(NODE_OPTIONS=given) == given
