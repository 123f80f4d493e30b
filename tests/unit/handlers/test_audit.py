"""The audit: CloudTrail's events, in both spellings of PCRs, joined with locks and ledger. CloudTrail's one call is botocore's, stubbed; moto has none."""

import base64
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.ledger import LedgerEntry
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.errors import NitrokitError
from nitrokit.handlers import audit
from nitrokit.handlers.auditor import Auditor
from nitrokit.handlers.key_use import parse_event
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.run_store import RunStore
from nitrokit.handlers.settings import Fleet

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1"
MODULE = "i-0123456789abcdef0-enc0123456789abcde"
NOW = datetime(2026, 6, 7, 12, tzinfo=UTC)
OLD = Measurements(digest([b"old"]), digest([b"old init"]), digest([b"old app"]))


def _event(pcrs=None, *, spelled=lambda value: base64.b64encode(value).decode(), time=NOW, identity="1", **changes):
    """In the shape of KMS Developer Guide "Monitoring requests for attested environments"."""
    recipient = {} if pcrs is None else {
        "attestationDocumentModuleId": MODULE, "attestationDocumentEnclaveImageDigest": spelled(pcrs[0]),
        **{f"attestationDocumentEnclavePCR{index}": spelled(pcrs[index]) for index in (1, 2)},
    }  # fmt: skip
    return {
        "eventID": identity, "eventTime": time.isoformat().replace("+00:00", "Z"), "eventSource": "kms.amazonaws.com", "eventName": "Decrypt", "sourceIPAddress": "10.0.0.1",
        "userIdentity": {"type": "AssumedRole", "arn": "arn:aws:sts::123456789012:assumed-role/host/i-0"}, "requestParameters": {"encryptionContext": {"record": "7"}},
        "additionalEventData": {"recipient": recipient} if recipient else None, **changes,
    }  # fmt: skip


@pytest.fixture
def fleet(measurements):
    reference = ReferenceValues(measurements, (RetiringSet(OLD, NOW),))
    return Fleet("hello", "attest", "arn:aws:iam::123456789012:role/host", {}, reference)


def _audit(fleet, event, records=None):
    use = parse_event(event, KEY)
    assert use is not None
    return Auditor([fleet], records).audit(use)


@pytest.mark.parametrize("spelled", [bytes.hex, lambda value: value.hex().upper(), lambda value: base64.b64encode(value).decode()])
def test_an_attested_use_is_named_whichever_way_its_pcrs_are_spelled(fleet, measurements, spelled):
    found = _audit(fleet, _event(measurements.pcrs(), spelled=spelled))
    assert (found.kind, found.enclave, found.standing, found.as_finding()) == ("attested", "hello", "current", None)
    told = found.as_dict()
    assert (told["principal"], told["encryption_context"]) == ("arn:aws:sts::123456789012:assumed-role/host/i-0", {"record": "7"})
    assert told["pcrs"]["0"] == measurements.pcr0.hex()
    json.dumps(told)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (_event(), "unattested"),
        (_event(additionalEventData={}), "unattested"),
        (_event({0: bytes(48), 1: bytes(48), 2: bytes(48)}), "debug"),
        (_event({0: b"x" * 48, 1: b"y" * 48, 2: b"z" * 48}), "unknown-image"),
        (_event({0: b"x", 1: b"", 2: b""}), "unknown-image"),
        (_event(errorCode="AccessDenied"), "denied"),
    ],
)
def test_every_other_use_is_told_apart(fleet, event, kind):
    found = _audit(fleet, event)
    assert found.kind == kind
    assert (found.as_finding() is None) == (kind == "denied")


def test_a_retiring_set_is_known_until_and_after_its_date(fleet):
    assert _audit(fleet, _event(OLD.pcrs())).standing == "retiring"
    assert _audit(fleet, _event(OLD.pcrs(), time=NOW + timedelta(seconds=1))).standing == "retired"


def test_events_that_open_nothing_are_none():
    for name in ("Encrypt", "DescribeKey", "GetPublicKey"):
        assert parse_event(_event(eventName=name), KEY) is None
    assert parse_event(_event(eventSource="s3.amazonaws.com"), KEY) is None


@given(st.dictionaries(st.text(max_size=50), st.text(max_size=100) | st.none() | st.integers()))
def test_whatever_stands_in_recipient_is_read_without_a_crash(recipient):
    use = parse_event({**_event(), "additionalEventData": {"recipient": recipient}}, KEY)
    assert use is not None
    assert set(use.pcrs) <= set(range(100_000)) or not use.pcrs


@pytest.fixture
def deployed(aws, monkeypatch, measurements, fleet):
    for name, value in {
        "SETTINGS_PATH": "/nitrokit/x",
        "STATE_TABLE": "state",
        "LEDGER_TABLE": "ledger",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    written = {
        "name": "hello",
        "document": "d",
        "host_role_arn": fleet.host_role_arn,
        "targets": [],
        "reference": json.loads(fleet.reference.to_json()),
    }
    ssm = aws.client("ssm")
    ssm.put_parameter(Name="/nitrokit/x/fleets/hello", Value=json.dumps(written), Type="String")
    ssm.put_parameter(Name="/nitrokit/x/keys/Key/0", Value=json.dumps({"key": KEY, "statements": []}), Type="String")
    return Ledger("ledger", aws.client("dynamodb"))


@pytest.fixture
def trail(monkeypatch):
    """CloudTrail that answers with these pages; the request is checked against botocore's model."""

    real = boto3.client

    def make(*pages):
        client = real("cloudtrail", region_name="eu-west-1")
        stubber = Stubber(client)
        for number, page in enumerate(pages):
            events = [{"EventId": one["eventID"], "CloudTrailEvent": json.dumps(one)} for one in page]
            more = {"NextToken": str(number)} if number + 1 < len(pages) else {}
            stubber.add_response("lookup_events", {"Events": events, **more})
        stubber.activate()
        monkeypatch.setattr("boto3.client", lambda service, *a, **k: client if service == "cloudtrail" else real(service, *a, **k))

    return make


def _context(left=900):
    return SimpleNamespace(
        invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:f",
        aws_request_id="r",
        get_remaining_time_in_millis=lambda: left * 1000,
    )


CONTEXT = _context()


def _entry(time, module_id, identity):
    return LedgerEntry(
        entry_id=identity,
        time=time,
        enclave="hello",
        host=MODULE.split("-enc")[0],
        source="t",
        verdict="PASS",
        module_id=module_id,
        nonce=b"n",
        policy_sha256=bytes(32),
    )


def test_who_decrypted_what_is_joined_with_the_check_before_it(deployed, trail, measurements):
    times = [NOW - timedelta(hours=2), NOW - timedelta(minutes=5), NOW + timedelta(minutes=5)]
    deployed.append_all([
        *(_entry(time, MODULE, str(number)) for number, time in enumerate(times)),
        _entry(NOW - timedelta(minutes=1), MODULE[:-1] + "0", "another-enclave"),
    ])  # fmt: skip
    trail(
        [_event(measurements.pcrs(), identity="a")],
        [_event(measurements.pcrs(), identity="b", time=NOW - timedelta(hours=3)), _event(identity="c")],
    )
    answer = audit.handler({"since": "2026-06-07T00:00:00Z", "until": "2026-06-08T00:00:00Z"}, CONTEXT)
    assert answer["counts"] == {"attested": 2, "denied": 0, "unattested": 1, "debug": 0, "unknown-image": 0}
    by_id = {one["event_id"]: one for one in answer["uses"]}
    assert by_id["a"]["ledger"] == {"sequence": 1, "time": "2026-06-07T11:55:00Z", "verdict": "PASS"}
    assert by_id["b"]["ledger"]["sequence"] == 0
    assert by_id["c"]["ledger"] is None


def test_the_nearest_check_is_found_behind_hundreds_of_later_ones(deployed, trail, measurements):
    later = [_entry(NOW + timedelta(minutes=15 * number), MODULE, f"later{number}") for number in range(1, 250)]
    deployed.append_all([_entry(NOW - timedelta(minutes=7), MODULE, "before"), *later])
    trail([_event(measurements.pcrs(), identity="a"), _event(measurements.pcrs(), identity="b", time=NOW - timedelta(minutes=8))])
    answer = audit.handler({"since": "2026-06-07T00:00:00Z", "until": "2026-06-08T00:00:00Z"}, CONTEXT)
    times = {one["event_id"]: one["ledger"]["time"] for one in answer["uses"]}
    assert times == {"a": "2026-06-07T11:53:00Z", "b": "2026-06-07T11:53:00Z"}, "before the use; else the first after it"


@pytest.mark.parametrize("wrong", ["2026-06-07", "yesterday", 7, "2026-13-01T00:00:00Z"])
def test_a_time_by_hand_that_is_none_is_told(deployed, wrong):
    with pytest.raises(NitrokitError, match="audit/time"):
        audit.handler({"since": wrong}, CONTEXT)


class Trail:
    """CloudTrail's history, as it answers for a window; ``asked``: the windows."""

    def __init__(self, monkeypatch, events):
        real = boto3.client
        self.asked: list[tuple[datetime, datetime]] = []

        def paginate(*, LookupAttributes, StartTime, EndTime):
            assert LookupAttributes == [{"AttributeKey": "ResourceName", "AttributeValue": KEY}]
            self.asked.append((StartTime, EndTime))
            yield {
                "Events": [
                    {"CloudTrailEvent": json.dumps(one)}
                    for one in events
                    if StartTime <= datetime.fromisoformat(one["eventTime"]) <= EndTime
                ]
            }

        client = SimpleNamespace(get_paginator=lambda _: SimpleNamespace(paginate=paginate))
        monkeypatch.setattr("boto3.client", lambda service, *a, **k: client if service == "cloudtrail" else real(service, *a, **k))


def test_what_piled_up_is_audited_window_by_window_and_goes_on_next_time(deployed, monkeypatch, publisher, capsys):
    """Hours of arrears with time for three windows: the mark moves with each, and nothing is lost or counted twice."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    RunStore(boto3.client("dynamodb"), "state").set_mark("audit", start.isoformat(), None)
    events = [_event(identity=f"{number}", time=start + timedelta(minutes=2 * number)) for number in range(12)]
    trail, left = Trail(monkeypatch, events), iter([900, 900, 900, 60])
    context = _context()
    context.get_remaining_time_in_millis = lambda: next(left) * 1000
    first = audit.handler({}, context)
    assert [end - begin for begin, end in trail.asked] == [timedelta(minutes=5)] * 3
    assert (first["since"], first["until"]) == (start.isoformat(), (start + timedelta(minutes=15)).isoformat())
    second = audit.handler({}, _context())
    assert second["since"] == first["until"]
    assert [one["event_id"] for one in (*first["uses"], *second["uses"])] == [f"{number}" for number in range(12)]
    counts = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"KeyUses"' in line]
    assert sum(one["KeyUses"][0] for one in counts if one["Kind"] == "unattested") == 12


def test_the_scheduled_audit_goes_on_where_it_stopped_and_reports(deployed, monkeypatch, publisher, capsys):
    _, delivered = publisher
    now = datetime.now(UTC).replace(microsecond=0)
    Trail(monkeypatch, [_event(identity="inside", time=now - timedelta(minutes=30)), _event(identity="too new", time=now)])
    first = audit.handler({}, CONTEXT)
    assert [one["event_id"] for one in first["uses"]] == ["inside"]
    (event,) = delivered()
    assert (event["detail"]["kind"], event["detail"]["event"]) == ("audit", "inside")
    second = audit.handler({}, CONTEXT)
    assert (second["since"], second["uses"]) == (first["until"], [])
    assert delivered() == []
    counts = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"KeyUses"' in line]
    assert sum(one["KeyUses"][0] for one in counts if one["Kind"] == "unattested") == 1
