"""The app's output: bounded, numbered, followed; nobody waits for a reader."""

import json
import threading
import time

import pytest

from nitrokit.core.nsm import NsmClient
from nitrokit.runtime import control, frames
from nitrokit.runtime.logs import MAX_LINE, LogBuffer


def _later(seconds, call, *arguments):
    timer = threading.Timer(seconds, call, arguments)
    timer.daemon = True
    timer.start()


def test_lines_are_read_by_number_and_tell_their_stream():
    logs = LogBuffer()
    logs.append("stdout", b"one\xff\n")
    logs.append("stderr", b"two")
    logs.say("three \ud800")
    whole = {
        "lines": ["one\ufffd", "two", "nitrokit: three \\ud800"],
        "streams": ["stdout", "stderr", "init"],
        "next": 3,
        "dropped": 0,
    }
    assert logs.read(0) == whole
    assert logs.read(3) == {"lines": [], "streams": [], "next": 3, "dropped": 0}
    assert logs.read(10**9) == {"lines": [], "streams": [], "next": 3, "dropped": 0}, "numbers of an enclave that was there before"


@pytest.mark.parametrize("line", [b"%0100d\n" % 5, b"\n"])
def test_the_oldest_are_dropped_and_counted_however_short(line):
    logs = LogBuffer(10_000)
    for _ in range(1000):
        logs.append("stdout", line)
    answer = logs.read(3)
    assert answer["next"] == 1000
    assert answer["dropped"] == 1000 - 3 - len(answer["lines"])
    assert len(answer["lines"]) == 10_000 // (len(line) + 64)


def test_an_answer_is_never_larger_than_a_frame():
    logs = LogBuffer()
    for _ in range(14):
        logs.append("stderr", b"\0" * (MAX_LINE - 1) + b"\n")
    for _ in range(1000):
        logs.append("stderr", b"\n")
    since, total = 0, 0
    while (answer := logs.read(since))["lines"]:
        assert len(json.dumps(answer)) < frames.MAX_FRAME
        since, total = answer["next"], total + len(answer["lines"])
    assert total == 1014


def test_who_waits_gets_a_line_when_it_comes():
    logs = LogBuffer()
    started = time.monotonic()
    assert logs.read(0, wait=0.1)["lines"] == []
    _later(0.1, logs.append, "stdout", b"now\n")
    assert logs.read(0, wait=20)["lines"] == ["now"]
    assert logs.read(7, wait=20)["next"] == 1, "of an enclave that was there before: told at once"
    assert time.monotonic() - started < 10


def test_an_end_waits_for_those_who_follow_and_for_nobody_else():
    logs = LogBuffer()
    logs.append("stdout", b"last words\n")
    started = time.monotonic()
    logs.settle(20)
    logs.read(0)
    logs.settle(20, recent=0)
    assert time.monotonic() - started < 10, "nobody follows"
    _later(0.2, logs.read, 1)
    logs.settle(20)
    assert 0.1 < time.monotonic() - started < 10, "who follows has asked again, and so has got it"
    logs.append("stdout", b"more\n")
    logs.settle(0.1)  # a follower that went away holds nobody up for long


@pytest.mark.parametrize(
    "request_",
    [
        {"since": -1},
        {"since": "0"},
        {"since": True},
        {"since": None},
        {"since": 1.5},
        {"wait": -1},
        {"wait": 31},
        {"wait": "1"},
        {"wait": True},
    ],
)
def test_requests_are_checked(request_, make_nsm):
    with pytest.raises(frames.FrameError) as caught:
        control.handler(NsmClient(make_nsm().answer), dict, LogBuffer())({"op": "logs", **request_})
    assert caught.value.slug == next(iter(request_))


def test_an_image_that_keeps_its_output_gives_none(make_nsm):
    with pytest.raises(frames.FrameError) as caught:
        control.handler(NsmClient(make_nsm().answer), dict, None)({"op": "logs"})
    assert caught.value.slug == "no-logs"
