"""Checking a fleet: enclaves that tell the truth and hosts that lie, and what is told of them."""

import base64
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.nonces import enclave_nonce
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.handlers.run_state import Trigger

ALL = Trigger("event")
ROLE = "arn:aws:iam::123456789012:role/host"


def instance(number):
    return f"i-{number:017x}"


def printed(document):
    return json.dumps({"document": base64.b64encode(document).decode(), "enclave_id": "x"})


def _failure(state, number=0):
    (found,) = [one for one in state.failures if one["instance_id"] == instance(number)]
    return found


def test_a_fleet_that_runs_the_locked_image_passes_and_is_in_the_ledger(site, honest, measurements):
    found = site({instance(number): honest(number) for number in range(60)})
    status, state = found.run(ALL)
    assert (status, state.totals, state.failures) == ("complete", {"hello": {"PASS": 60}}, ())
    entries = found.entries()
    assert sorted(one.host for one in entries) == [instance(number) for number in range(60)]
    assert {(one.verdict, one.enclave, one.reason) for one in entries} == {("PASS", "hello", None)}
    assert {one.image for one in entries} == {f"hello@{measurements.pcr0.hex()[:12]}"}
    assert [len(ids) for ids, _ in found.ssm.commands] == [50, 10]
    assert found.published == []
    assert len({one.nonce for one in entries}) == 60


def test_every_run_has_a_base_of_its_own(site, honest):
    found = site({instance(0): honest(0)})
    for number in range(3):
        found.run(Trigger(str(number)))
    assert len(set(found.ssm.bases)) == 3
    assert {len(base) for base in found.ssm.bases} == {32}


# Hosts that lie, and enclaves that are not what they should be


def _liar(make_nsm, measurements, vectors, kind):
    """What host 0 prints, by kind of lie; ``other`` is the honest enclave of host 1."""
    mine = NsmClient(make_nsm(module_id=f"{instance(0)}-enc1").answer)
    other = NsmClient(make_nsm(module_id=f"{instance(1)}-enc1").answer)
    changed = Measurements(digest([b"changed"]), measurements.pcr1, digest([b"changed app"]))
    old = mine.attestation(nonce=b"n" * 32)
    foreign = NsmClient(make_nsm(module_id=f"{instance(0)}-enc1", pki=EmulatedPki(lambda: datetime.now(UTC))).answer)
    past = NsmClient(make_nsm(module_id=f"{instance(0)}-enc1", now=lambda: datetime.now(UTC) - timedelta(minutes=6)).answer)
    debug = NsmClient(make_nsm(module_id=f"{instance(0)}-enc1", debug=True).answer)
    role = NsmClient(make_nsm(module_id=f"{instance(0)}-enc1", role_arn="arn:aws:iam::123456789012:role/other").answer)
    image = NsmClient(make_nsm(module_id=f"{instance(0)}-enc1", measurements=changed).answer)
    real = [one.read_bytes() for one in sorted((vectors / "attestation").glob("*.bin"))]
    return {
        "another enclave's document": lambda nonce: printed(other.attestation(nonce=nonce)),
        "another enclave's, by its nonce": lambda nonce: printed(other.attestation(nonce=enclave_nonce(b"x" * 32, instance(1), "hello"))),
        "a replayed document": lambda nonce: printed(old),
        "without a nonce": lambda nonce: printed(mine.attestation()),
        "an old one": lambda nonce: printed(past.attestation(nonce=nonce)),
        "a debug enclave": lambda nonce: printed(debug.attestation(nonce=nonce)),
        "another role": lambda nonce: printed(role.attestation(nonce=nonce)),
        "another image": lambda nonce: printed(image.attestation(nonce=nonce)),
        "another root": lambda nonce: printed(foreign.attestation(nonce=nonce)),
        "AWS's own, of another": lambda nonce: printed(real[0]),
        "flipped": lambda nonce: printed(mine.attestation(nonce=nonce)[:-1] + b"\x00"),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("another enclave's document", "appraisal/parent"), ("another enclave's, by its nonce", "appraisal/nonce"), ("a replayed document", "appraisal/nonce"), ("without a nonce", "appraisal/nonce"),
        ("an old one", "appraisal/stale"), ("a debug enclave", "appraisal/debug"), ("another role", "appraisal/parent"), ("another image", "appraisal/measurements"),
        ("another root", "verification/root"),
        ("AWS's own, of another", "verification/root"), ("flipped", "verification/signature"),
    ],
)  # fmt: skip
def test_a_lie_fails_with_its_cause_and_the_others_pass(site, honest, make_nsm, measurements, vectors, kind, code):
    found = site({instance(0): _liar(make_nsm, measurements, vectors, kind), instance(1): honest(1)})
    _, state = found.run(ALL)
    assert state.totals == {"hello": {"FAIL": 1, "PASS": 1}}
    assert _failure(state)["code"] == code
    (finding,) = found.published
    assert (finding.subject, finding.severity, finding.passed) == (f"hello/{instance(0)}", "CRITICAL", False)
    entry = next(one for one in found.entries() if one.host == instance(0))
    assert (entry.verdict, code in entry.reason, entry.image) == ("FAIL", True, None)
    assert entry.document is not None


def test_documents_of_aws_expired_of_another_region_and_of_a_tpm_fail(site, vectors, measurements, monkeypatch):
    """Real evidence under AWS's root: none of it passes for a fresh document of ours."""
    from nitrokit.core.attestation import AWS_NITRO_ROOT_G1

    real = [one.read_bytes() for one in sorted((vectors / "attestation").glob("*.bin"))]
    found = site({instance(number): lambda nonce, data=data: printed(data) for number, data in enumerate(real)})
    found.anchor = AWS_NITRO_ROOT_G1
    _, state = found.run(ALL)
    assert state.totals == {"hello": {"FAIL": len(real)}}
    assert {one["code"] for one in state.failures} == {"verification/validity"}


def test_authentic_documents_of_aws_at_their_own_time_fail_each_for_what_it_is(site, vectors):
    """As if they were fresh: a NitroTPM's, debug enclaves', and enclaves' of other Regions and accounts, which were not asked with this nonce."""
    from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, parse_document

    seen = Counter[tuple[bool, str]]()
    for path in sorted((vectors / "attestation").glob("*.bin")):
        data = path.read_bytes()
        document = parse_document(data)
        found = site({instance(0): lambda nonce, data=data: printed(data)})
        found.anchor, found.time = AWS_NITRO_ROOT_G1, document.timestamp - datetime.now(UTC)
        _, state = found.run(Trigger(path.name))
        assert state.totals == {"hello": {"FAIL": 1}}, path.name
        seen[document.is_tpm, _failure(state)["code"]] += 1
        found.forget()
    assert {*seen} == {(True, "verification/not-an-enclave"), (False, "appraisal/debug"), (False, "appraisal/nonce")}, seen


@pytest.mark.parametrize(
    "output", ["", "nonsense", "[]", "{}", '{"document": 1}', '{"document": "é"}', '{"document": "A"}', "[" * 24_000, '{"document": null}']
)
def test_whatever_a_host_prints_is_not_a_pass_and_not_a_crash(site, honest, output):
    found = site({instance(0): lambda nonce: output, instance(1): honest(1)})
    _, state = found.run(ALL)
    assert state.totals == {"hello": {"UNREACHABLE": 1, "PASS": 1}}
    assert "holds no document" in _failure(state)["reason"]


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x84" * 4000, b"\xd2\x84\x43\xa1\x01\x26\xa0\x40\x40"])
def test_a_hostile_document_fails(site, data):
    found = site({instance(0): lambda nonce: printed(data)})
    _, state = found.run(ALL)
    assert state.totals == {"hello": {"FAIL": 1}}


def test_every_byte_of_the_document_counts(site, honest):
    answer = honest(0)

    def flipped(position):
        def inner(nonce):
            data = bytearray(base64.b64decode(json.loads(answer(nonce))["document"]))
            data[position * len(data) // 40] ^= 1
            return printed(bytes(data))

        return inner

    for position in range(40):
        found = site({instance(0): flipped(position)})
        _, state = found.run(Trigger(str(position)))
        assert state.totals == {"hello": {"FAIL": 1}}, position


@pytest.mark.parametrize("status", ["Failed", "TimedOut", "Cancelled", "DeliveryTimedOut"])
def test_a_host_that_fails_is_unreachable_with_its_own_words(site, honest, status):
    found = site(
        {instance(0): lambda nonce: {"Status": status, "StandardErrorContent": "no enclave [agent/not-running]"}, instance(1): honest(1)}
    )
    _, state = found.run(ALL)
    assert state.totals == {"hello": {"UNREACHABLE": 1, "PASS": 1}}
    assert "agent/not-running" in _failure(state)["reason"]
    assert [one.severity for one in found.published] == ["HIGH"]


def test_hosts_that_are_not_connected_or_never_answer_keep_nobody_from_being_checked(site, honest):
    hosts = {instance(number): honest(number) for number in range(80)}
    found = site(hosts)
    for number in (3, 41, 70):
        del hosts[instance(number)]
    hosts[instance(5)] = lambda nonce: {"Status": "InProgress"}
    _, state = found.run(ALL)
    assert state.totals == {"hello": {"PASS": 76, "UNREACHABLE": 4}}
    assert "not connected" in _failure(state, 41)["reason"]
    assert "no answer in 50 s" in _failure(state, 5)["reason"]


@pytest.mark.parametrize(("minutes", "verdict"), [(1, "PASS"), (-0.98, "PASS"), (6, "FAIL"), (-2, "FAIL"), (240, "FAIL")])
def test_a_clock_that_is_off_by_a_minute_is_borne_and_no_more(site, honest, minutes, verdict):
    found = site({instance(0): honest(0)})
    found.time = timedelta(minutes=minutes)
    assert found.run(ALL)[1].totals == {"hello": {verdict: 1}}


def test_a_retiring_set_passes_until_its_date(site, honest, measurements):
    new = Measurements(digest([b"new"]), digest([b"new init"]), digest([b"new app"]))
    for hours, verdict in ((1, "PASS"), (-1, "FAIL")):
        found = site({instance(0): honest(0), instance(1): honest(1, measurements=new)})
        date = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)
        (fleet,) = found.fleets
        found.fleets = [
            type(fleet)(fleet.enclave, fleet.document_name, ROLE, fleet.targets, ReferenceValues(new, (RetiringSet(measurements, date),)))
        ]
        _, state = found.run(Trigger(verdict))
        assert state.totals["hello"].get(verdict, 0) == (2 if verdict == "PASS" else 1)


# What changes is told, once


def test_only_changes_are_told_and_recovery_too(site, honest):
    hosts = {instance(0): honest(0), instance(1): honest(1)}
    found = site(hosts)
    found.run(Trigger("1"))
    hosts[instance(0)] = honest(0, debug=True)
    found.run(Trigger("2"))
    found.run(Trigger("3"))
    assert [(one.passed, one.details["code"]) for one in found.published] == [(False, "appraisal/debug")]
    hosts[instance(0)] = honest(0)
    _, state = found.run(Trigger("4"))
    assert [one.passed for one in found.published] == [False, True]
    assert state.changed == 1


def test_findings_arrive_as_events_and_in_security_hub(site, honest, publisher, aws):
    publish, delivered = publisher
    hosts = {instance(number): honest(number, debug=True) for number in range(13)}
    found = site(hosts)
    found.publish = publish.publish
    found.run(ALL)
    events = delivered()
    assert {(one["source"], one["detail"]["status"], one["detail"]["code"]) for one in events} == {
        ("nitrokit", "FAILED", "appraisal/debug")
    }
    assert len({one["detail"]["id"] for one in events}) == 13
    imported = aws.client("securityhub").get_findings(MaxResults=100)["Findings"]
    assert {one["Id"] for one in imported} == {one["detail"]["id"] for one in events}
    assert {(one["Severity"]["Label"], one["Compliance"]["Status"]) for one in imported} == {("CRITICAL", "FAILED")}
