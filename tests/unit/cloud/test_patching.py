"""Two local clouds in one process: the inner one ends and leaves the outer one's helpers; when both have, moto is as it was."""

import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from moto.autoscaling.responses import AutoScalingResponse

from nitrokit.emulation.cloud import automation, autoscaling, cloudformation, compliance, patching
from nitrokit.emulation.cloud.ssm import Outcome
from nitrokit.emulation.local import LocalAws


def _automation():
    return automation.install(automation.Automation(lambda _: {}, lambda: None))


@pytest.mark.parametrize("install", [autoscaling.install, compliance.install, _automation])
def test_the_outer_cloud_ends_too(install):
    ends = [install(), install()]
    ends.pop()()
    ends.pop()()


def test_what_was_there_is_there_again():
    Moto = type("Moto", (), {"theirs": 1})

    outer, inner = patching.put(Moto, theirs=2, ours=2), patching.put(Moto, theirs=3, ours=3)
    inner()
    assert (vars(Moto)["theirs"], vars(Moto)["ours"]) == (2, 2)
    outer()
    assert (vars(Moto)["theirs"], "ours" in vars(Moto)) == (1, False)


def test_a_cloud_that_ends_leaves_the_others_helpers():
    ends = [autoscaling.install(), autoscaling.install()]
    ends.pop()()
    assert "complete_lifecycle_action" in AutoScalingResponse.__dict__
    ends.pop()()
    assert "complete_lifecycle_action" not in AutoScalingResponse.__dict__


def test_instances_run_side_by_side_in_threads_that_hold_up_no_exit():
    at_once, most, daemons, lock = 0, 0, set(), threading.Lock()

    def run(instance_id):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            daemons.add(threading.current_thread().daemon)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return Outcome("Success", 0, instance_id, "")

    ids = [f"i-{number}" for number in range(9)]
    assert {one: outcome.stdout for one, outcome in cloudformation._side_by_side(run, ids).items()} == {one: one for one in ids}
    assert (1 < most <= 4, daemons) == (True, {True})
    assert cloudformation._side_by_side(run, []) == {}


def test_the_next_cloud_starts_empty():
    for _ in range(2):
        work = Path(tempfile.mkdtemp(prefix="nkp", dir="/tmp"))
        aws = LocalAws(work, environment={}, runner="process", note=lambda _: None)
        try:
            aws.create_role("once")
        finally:
            aws.close()
            shutil.rmtree(work)
