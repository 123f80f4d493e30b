"""What the gate is given by those whom nobody trusts: what a host prints, templates and policies that somebody edited, and a report that came by mail."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.errors import UsageError
from nitrokit.gate.formats import FORMATS
from nitrokit.gate.hosts import compare_host
from nitrokit.gate.key_policies import KeyPolicy, compare_key_policy
from nitrokit.gate.locks import LockedImage
from nitrokit.gate.page.render import render_page
from nitrokit.gate.report import Comparison, GateReport, Place, one_line
from nitrokit.gate.templates import sets_in
from nitrokit.handlers.hosts import Output

_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_SET, _OLD = (Measurements(digest([word]), digest([b"1"]), digest([word, b"2"])) for word in (b"new", b"old"))
_IMAGE = LockedImage(Path("hello"), "hello", ReferenceValues(_SET, (RetiringSet(_OLD, _TIME + timedelta(days=1)),)), {})


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError("not-json", "no JSON") from error


def _host(data: bytes) -> None:
    found = compare_host(Output("i-0123456789abcdef0", data.decode(errors="replace")), _IMAGE, _TIME)
    assert all(one == one_line(one) for one in (found.subject, found.reason, *found.details))


def _template(data: bytes) -> None:
    for _, pcrs in sets_in(_json(data)):
        assert all(len(value) == 48 for value in pcrs.values())


def _policy(data: bytes) -> None:
    value = _json(data)
    if isinstance(value, dict):
        found = list(compare_key_policy(KeyPolicy(Place.KEY, "key", value, "123456789012"), [_IMAGE], _TIME))
        assert found, "no policy is passed over in silence"


def _page(data: bytes) -> None:
    value = _json(data)
    if isinstance(value, dict):
        assert "<script" not in render_page(value, made=_TIME)


TARGETS: dict[str, Callable[[bytes], None]] = {"gate_host": _host, "gate_template": _template, "gate_policy": _policy, "gate_page": _page}


@cache
def _made_report() -> list[str]:
    chain = [{"subject": "CN=x", "not_before": "2026-01-01", "not_after": "2027-01-01", "sha256": "ab"}]
    evidence = {"module_id": "i-1-enc1", "region": None, "timestamp": "2026-01-01T00:00:00", "pcrs": {"0": "00"}, "chain": chain}
    found = [
        Comparison(Place.ENCLAVE, "hello", "agrees", "fine", evidence=evidence),
        Comparison(Place.KEY, "key", "grant", "a `grant`", details=("one",), until=_TIME),
    ]
    report = GateReport(_TIME, {"hello": json.loads(_IMAGE.values.to_json())}, found)
    return ["".join(FORMATS["json"](report))]


def _made_host() -> list[str]:
    configured = json.dumps({"name": "hello", "measurements": _SET.as_object()})
    return [f"{configured}\n{json.dumps({'measurements': 'as locked'})}\n", f"{configured}\nno"]


MADE: dict[str, Callable[[], list[str]]] = {
    "gate_host": _made_host,
    "gate_template": lambda: [json.dumps({"a": json.dumps([{"name": "hello", "Measurements": _SET.as_object()}])})],
    "gate_policy": lambda: [
        json.dumps(build_key_policy(measurements=[_SET, _OLD], host_role_arn="arn:aws:iam::123456789012:role/host", account="123456789012"))
    ],
    "gate_page": _made_report,
}
