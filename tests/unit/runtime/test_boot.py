"""Randomness and time at boot."""

import threading
import time

import cbor2
import pytest

from nitrokit.core.nsm import NsmClient, NsmError, encode_response
from nitrokit.runtime import entropy
from nitrokit.runtime.clock import MAX_SKEW, Clock


def _clock(make_nsm, now, **options):
    """A clock that shows ``now`` seconds more than the hypervisor's."""
    shift = [now]

    def set_to(seconds):
        shift[0] += seconds - (time.time() + shift[0])

    return Clock(NsmClient(make_nsm().answer), read=lambda: time.time() + shift[0], set=set_to, **options), shift


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
    clock, shift = _clock(make_nsm, 0.1)
    clock.synchronize()
    assert (shift[0], clock.state()["clock_set"]) == (0.1, 0)


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
