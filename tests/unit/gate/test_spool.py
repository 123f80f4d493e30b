"""A large fleet: neither what was found nor any form of it is held in memory, and hosts are asked no faster than they can be heard."""

import json
import tracemalloc
from datetime import timedelta

import pytest

from nitrokit.gate.formats import FORMATS
from nitrokit.gate.report import Comparison, GateReport, Place
from nitrokit.gate.spool import Spool, json_pieces, streamed
from nitrokit.handlers.hosts import AT_ONCE, Hosts

from .conftest import NOW


def _found(number, rule):
    evidence = {"module_id": f"i-{number}", "chain": [{"sha256": "ab" * 32, "subject": "s" * 3000}] * 5}
    return Comparison(
        Place.ENCLAVE,
        f"hello on i-{number}",
        rule,
        "because",
        "hello",
        ("one" * 1000, "two"),
        "a/b.json",
        NOW + timedelta(days=1),
        evidence,
    )


def test_what_is_read_back_is_what_was_found_by_any_number_of_readers():
    found = [_found(0, "agrees"), Comparison(Place.LOCK, "x", "lock-torn", "é \ud800", None), _found(2, "debug-enclave")]
    spool = Spool(found)
    assert list(spool) == found
    assert list(zip(spool, spool, strict=True)) == [(one, one) for one in found]
    assert list(Spool(())) == []


@pytest.mark.parametrize("values", [[], [1], [{"a": []}, None]])
def test_streamed_json_is_what_the_json_module_writes(values):
    assert "".join(json_pieces({"x": streamed(iter(values), len(values))})) == json.dumps({"x": values}, indent=2) + "\n"


@pytest.mark.parametrize("rule", ["agrees", "unreachable", "debug-enclave"])
def test_no_form_of_a_large_report_is_held_in_memory(rule):
    size = 400
    tracemalloc.start()
    try:
        report = GateReport(NOW, {}, Spool(_found(number, rule) for number in range(size)))
        written = {name: sum(map(len, render(report))) for name, render in FORMATS.items()}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(report.counts().values()) == size
    assert written["json"] > 6 << 20
    assert peak < 3 << 20, "a mebibyte of it is held before the disk is used"


class _Systems:
    """Systems Manager over hosts that answer at once; every call takes time, as over a network."""

    class exceptions:
        class InvalidInstanceId(Exception):
            pass

        class InvocationDoesNotExist(Exception):
            pass

    def __init__(self):
        self.now, self.waiting, self.most = 0.0, set(), 0

    def send_command(self, *, InstanceIds, **_):
        self.now += 0.2
        self.waiting |= set(InstanceIds)
        self.most = max(self.most, len(self.waiting))
        return {"Command": {"CommandId": "c"}}

    def get_command_invocation(self, *, InstanceId, **_):
        self.now += 0.05
        self.waiting.discard(InstanceId)
        return {"Status": "Success", "StandardOutputContent": "fine", "StandardErrorContent": ""}


def test_ten_thousand_hosts_all_have_the_time_to_answer():
    systems = _Systems()
    hosts = Hosts(systems, None, sleep=lambda _: None, monotonic=lambda: systems.now)
    outputs = list(hosts.run("document", {}, [f"i-{number}" for number in range(10_000)]))
    assert {one.stdout for one in outputs} == {"fine"}, "none was given up while others were polled"
    assert (len(outputs), systems.most) == (10_000, AT_ONCE)
