"""What quick_synthesis sets, in a process of its own."""

import os
import subprocess
import sys

import pytest

_APP = """
import atexit, gc, os
atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0, os.environ["NODE_OPTIONS"]))  # runs last
from nitrokit.cdk.quick import quick_synthesis
quick_synthesis()
"""


def _options(**environment):
    inherited = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    done = subprocess.run([sys.executable, "-c", _APP], env={**inherited, **environment}, capture_output=True, text=True, check=True)
    collects, frozen, options = done.stdout.removesuffix("\n").split(" ", 2)
    assert (collects, frozen) == ("False", "True")
    return options


def test_node_takes_the_options_and_starts_no_more_threads_than_cores():
    options = _options()
    assert f"--v8-pool-size={min(4, os.cpu_count() or 1)}" in options.split()
    subprocess.run(["node", "-e", "0"], env={**os.environ, "NODE_OPTIONS": options}, check=True)


@pytest.mark.parametrize("given", ["--max-old-space-size=2048", ""])
def test_what_the_user_says_to_node_stays(given):
    assert _options(NODE_OPTIONS=given) == given
