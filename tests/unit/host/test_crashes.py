"""A kill at every write and every step: the agent is run once to count them, and then killed at each in turn; what follows must always come to the same end."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakeparent import STEPS, configuration


def _moments(parent, config, commands):
    """The moments at which a run of all steps can be killed: (command, number). Of what is asked again and again, as waiting does, the first."""
    events = parent.folder / "var/fake/events"
    events.write_text("")
    done = parent.pass_through(config)
    assert done.returncode == 0, done.stderr
    found = [line.split(" ", 2) for line in events.read_text().splitlines()]
    events.unlink()
    assert {command for command, *_ in found} >= set(commands)
    firsts = [next(group) for _, group in itertools.groupby(found, key=lambda one: (one[0], one[2]))]
    return [(command, number) for command, number in dict.fromkeys((one[0], one[1]) for one in firsts) if command in commands]


def _settled(parent, mark):
    """All is as wanted, and nothing half is left."""
    state = parent.folder / "var/lib/nitrokit/hello"
    assert [(one["EnclaveName"], one["Measurements"]["PCR0"][:2], one["EnclaveCID"]) for one in parent.enclaves()] == [("hello", mark, 16)]
    assert json.loads((state / "outcome.json").read_text())["status"] == "running"
    assert (state / "current.json").read_text() == (state / "good.json").read_text() == configuration(mark)
    for folder in (
        state,
        state / "images",
        parent.folder / "etc/nitrokit",
        parent.folder / "etc/nitro_enclaves",
        parent.folder / "etc/systemd/system",
    ):
        assert [path.name for path in folder.iterdir() if path.name.endswith((".part", ".chunk"))] == []


def _killed_at(parent, moment, config):
    """Run the steps with a kill at one moment, and whatever it broke again, as Systems Manager does; whether it came."""
    crash = parent.folder / "var/fake/crash"
    crash.write_text(" ".join(moment))
    first = parent.pass_through(config)
    came = not crash.exists()
    crash.write_text("")
    assert "internal" not in first.stderr, first.stderr
    if first.returncode:
        done = parent.pass_through(config)
        assert done.returncode == 0, (moment, done.stderr)
    return came


def _wipe(parent):
    """As before the first deployment, but for systemd, which stays up."""
    parent.run(
        "systemctl disable --now 'nitrokit-*' nitro-enclaves-allocator; systemctl reset-failed; rm -rf /var/lib/nitrokit /etc/nitrokit /etc/nitro_enclaves/*"
        " /etc/systemd/system/nitrokit-*; systemctl daemon-reload"
    )
    parent.power_on()


@pytest.fixture
def parents(make_parent):
    """Two, side by side: there are many moments."""
    both = [make_parent(booted=True) for _ in range(2)]
    for parent in both:
        # What the shim looks for must be there when an agent starts.
        (parent.folder / "var/fake/crash").write_text("")
    return both


def _share(parents, moments, work):
    """``work(parent, moments)`` on both with half of the moments each; how many kills came."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda number: work(parents[number], moments[number::2]), range(2)))


def test_a_first_deployment_killed_anywhere_comes_to_the_same_end(parents):
    moments = _moments(parents[0], configuration(), (*STEPS, "serve"))
    _settled(parents[0], "00")

    def work(parent, moments):
        came = 0
        for moment in moments:
            _wipe(parent)
            came += _killed_at(parent, moment, configuration())
            _settled(parent, "00")
        return came

    assert _share(parents, moments, work) >= len(moments) // 2  # a kill may come too late: what was counted need not be repeated exactly


def test_an_update_killed_anywhere_comes_to_the_same_end(parents):
    for parent in parents:
        parent.pass_through(configuration())
    moments = _moments(parents[0], configuration("aa"), ("run", "serve"))
    parents[1].pass_through(configuration("aa"))

    def work(parent, moments):
        came = 0
        for number, moment in enumerate(moments):
            mark = ("00", "aa")[number % 2]
            came += _killed_at(parent, moment, configuration(mark))
            _settled(parent, mark)
        return came

    assert _share(parents, moments, work) >= len(moments) // 2
