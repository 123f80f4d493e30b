"""Randomness and time at boot."""

import ctypes
import os
import threading
import time

import cbor2
import pytest

from nitrokit.core.nsm import NsmClient, NsmError, encode_response
from nitrokit.runtime import entropy
from nitrokit.runtime.clock import MAX_SKEW, Clock, _slew


def _clock(make_nsm, now, **options):
    """A clock that shows ``now`` seconds more than the hypervisor's; what it is slewed by is done at once."""
    shift = [now]

    def slew(seconds):
        shift[0] += seconds

    def set_to(seconds):
        shift[0] += seconds - (time.time() + shift[0])

    return Clock(NsmClient(make_nsm().answer), read=lambda: time.time() + shift[0], set=set_to, slew=slew, **options), shift


@pytest.mark.parametrize("skew", [-86400.0 * 365, -5.0, 5.0, 86400.0 * 365])
def test_a_wrong_clock_is_set_to_the_hypervisors(make_nsm, skew):
    clock, shift = _clock(make_nsm, skew)
    clock.synchronize()
    assert abs(shift[0]) < MAX_SKEW
    assert clock.state()["clock_set"] == 1
    assert abs(clock.state()["clock_skew_ms"] - skew * 1000) < 1000
    clock.synchronize()
    assert clock.state()["clock_set"] == 1


def test_a_right_clock_is_left_alone(make_nsm):
    clock, shift = _clock(make_nsm, 0.0)
    clock.synchronize()
    assert (shift[0], clock.state()["clock_set"]) == (0.0, 0)


@pytest.mark.parametrize("skew", [-0.3, 0.3])
def test_a_little_is_slewed_and_never_set(make_nsm, skew):
    clock, shift = _clock(make_nsm, skew)
    clock.synchronize()
    assert abs(shift[0]) < 0.1
    assert clock.state()["clock_set"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may slew the clock")
def test_the_kernel_takes_the_slew_and_tells_what_is_left():
    """Taken back at once: this machine's clock is real."""
    left = (ctypes.c_long * 2)()
    for seconds in (0.2, -0.2, -1.5):
        _slew(seconds)
        assert ctypes.CDLL(None).adjtime(None, left) == 0
        _slew(0)
        assert abs(left[0] + left[1] / 1e6 - seconds) < 0.01


def test_it_is_compared_again_and_again_and_a_failure_ends_nothing(make_nsm):
    clock, shift = _clock(make_nsm, 0.0, period=0.02)
    said = threading.Event()
    clock.keep(lambda _: said.set())
    shift[0] = 100.0
    deadline = time.monotonic() + 10
    while abs(shift[0]) > MAX_SKEW and time.monotonic() < deadline:
        time.sleep(0.01)
    assert abs(shift[0]) < MAX_SKEW
    clock._set = lambda _: (_ for _ in ()).throw(OSError("not permitted"))
    shift[0] = 100.0
    assert said.wait(10)
    clock._set = lambda seconds: None


@pytest.mark.parametrize(
    "document", [b"", b"\x80", cbor2.dumps([b"", {}, cbor2.dumps({}), b""]), cbor2.dumps([b"", {}, cbor2.dumps({"timestamp": "x"}), b""])]
)
def test_a_document_without_a_time_is_our_error(document):
    with pytest.raises(NsmError):
        Clock(NsmClient(lambda _: encode_response("Attestation", {"document": document}))).synchronize()


def test_the_kernel_gets_the_nsms_randomness(make_nsm, tmp_path):
    """Where no credit can be given, it is mixed in; on a real device root gets credit."""
    device = tmp_path / "random"
    device.write_bytes(b"")
    assert entropy.seed(NsmClient(make_nsm().answer), str(device)) is False
    assert len(device.read_bytes()) == 512
    assert entropy.seed(NsmClient(make_nsm().answer), "/dev/urandom") in (True, False)
