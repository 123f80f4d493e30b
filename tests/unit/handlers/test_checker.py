"""Checking a fleet: enclaves that tell the truth and hosts that lie, and invocations that die, race, repeat and are throttled. Nothing lost, nothing counted twice."""

import base64
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.nonces import enclave_nonce
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.handlers import checker as checker_module
from nitrokit.handlers.run_state import EVERYTHING, RunError, RunState, Trigger

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


# Invocations that die, race and repeat


class Killed(BaseException):
    """The sandbox is gone: no except clause of ours sees it."""


def _dying(found, monkeypatch, at):
    """Kill the invocation at its ``at``th call to the world; returns how many calls there were."""
    calls = 0

    def count(function):
        def inner(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed
            return function(*arguments, **named)

        return inner

    store, client = found.store, found.store._client
    for name in ("put_item", "batch_get_item"):
        monkeypatch.setattr(client, name, count(getattr(client, name)))
    monkeypatch.setattr(found.ledger, "append_all", count(found.ledger.append_all))
    found.publish = count(found.publish)
    monkeypatch.setattr(found.ssm, "send_command", count(found.ssm.send_command))
    return store, lambda: calls


def test_an_invocation_may_die_anywhere(site, honest, monkeypatch):
    """Once to count the calls, then killed at each of them, and its retry (the same request id) goes on."""
    monkeypatch.setattr(checker_module, "CHUNK", 4)

    def fresh():
        found = site({instance(number): honest(number, debug=number == 2) for number in range(6)})
        found.forget()
        return found

    with monkeypatch.context() as patch:
        found = fresh()
        _, calls = _dying(found, patch, 0)
        found.run(ALL, owner="count")
    total = calls()
    assert total > 14
    before = found.ledger.head().frontier.size
    for at in range(1, total + 1):
        found = fresh()
        found.runs = 1000 * at
        with monkeypatch.context() as patch:
            _dying(found, patch, at)
            with pytest.raises(Killed):
                found.run(ALL, owner=f"request{at}")
        status, state = found.run(ALL, owner=f"request{at}")
        if status == "idle":  # it died after its last step
            continue
        assert (status, state.totals) == ("complete", {"hello": {"PASS": 5, "FAIL": 1}}), at
        assert {one.subject for one in found.published} == {f"hello/{instance(2)}"}, at
        after = found.ledger.head().frontier.size
        assert after - before == 6, at
        before = after


def test_another_invocation_waits_until_the_lease_of_a_dead_one_ends(site, honest):
    found = site({instance(number): honest(number) for number in range(3)})
    found.ssm.before_send = lambda: (_ for _ in ()).throw(Killed())
    with pytest.raises(Killed):
        found.run(ALL, owner="first")
    found.ssm.before_send = lambda: None
    assert found.run(Trigger("schedule", scheduled=True), owner="second")[0] == "busy"
    found.time = timedelta(minutes=18)
    status, state = found.run(Trigger("later", scheduled=True), owner="third")
    assert (status, sum(state.totals["hello"].values())) == ("complete", 3)


def test_a_zombie_changes_nothing(site, honest):
    """The first invocation hangs in SendCommand until its lease is over; another one goes on; then the first wakes up."""
    found = site({instance(number): honest(number) for number in range(3)})
    woke: list[bool] = []

    def hang():
        if not woke:
            woke.append(True)
            found.time = timedelta(minutes=18)
            status, state = found.run(Trigger("second"), owner="second")
            assert (status, sum(state.totals["hello"].values())) == ("complete", 3)
            found.time = timedelta()

    found.ssm.before_send = hang
    with pytest.raises(RunError, match="taken this run over"):
        found.run(ALL, owner="first")
    assert found.ledger.head().frontier.size == 3


def test_an_event_that_comes_twice_checks_once(site, honest):
    found = site({instance(0): honest(0)})
    assert found.run(ALL, owner="a")[0] == "complete"
    assert found.run(ALL, owner="b")[0] == "idle"
    assert len(found.ssm.commands) == 1


def test_what_is_triggered_during_a_run_runs_after_it(site, honest):
    found = site({instance(number): honest(number) for number in range(3)})
    done: list[str] = []

    def during():
        if not done:
            done.append(found.run(Trigger("key-policy-changed"), owner="other")[0])
            done.append(found.run(Trigger("tick", scheduled=True), owner="other")[0])

    found.ssm.before_send = during
    found.run(ALL, owner="first")
    assert done == ["busy", "busy"]
    status, state = found.run(None, owner="continued")
    assert (status, state.totals) == ("complete", {"hello": {"PASS": 3}})
    assert found.run(None, owner="continued")[0] == "idle"


def test_a_run_that_has_no_time_left_is_handed_on_at_its_cursor(site, honest, monkeypatch):
    monkeypatch.setattr(checker_module, "CHUNK", 10)
    found = site({instance(number): honest(number) for number in range(35)})
    status, left = "", iter([timedelta(minutes=15), timedelta(minutes=15), timedelta(seconds=90)])
    found.runs = 1
    status, _ = found.checker().handle(ALL, "first", lambda: next(left), "run1")
    assert status == "continues"
    assert found.finished == []
    status, state = found.run(None, owner="second")
    assert (status, state.totals, len(found.finished)) == ("complete", {"hello": {"PASS": 35}}, 1)
    asked = [one for ids, _ in found.ssm.commands for one in ids]
    assert sorted(asked) == [instance(number) for number in range(35)]


def test_one_instance_alone_can_be_checked(site, honest):
    found = site({instance(number): honest(number) for number in range(5)})
    _, state = found.run(Trigger("launched", (instance(3), "i-00000000deadbeef0")))
    assert state.totals == {"hello": {"PASS": 1}}


def test_a_fleet_by_tag_is_what_runs_now(site, honest, aws):
    ec2 = aws.client("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "fleet", "Value": "a"}]}]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    launched = [one["InstanceId"] for one in ec2.run_instances(ImageId=image, MinCount=3, MaxCount=3, TagSpecifications=tags)["Instances"]]
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)
    ec2.stop_instances(InstanceIds=launched[:1])
    found = site({})
    (fleet,) = found.fleets
    assert found.checker().hosts.of(type(fleet)("hello", "attest", ROLE, {"tag:fleet": ("a",)}, fleet.reference)) == sorted(launched[1:])


# The state by itself


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 3)), max_size=30))
def test_at_any_time_one_owner_at_most_and_every_trigger_is_run(steps):
    now, state, lease = datetime(2026, 1, 1, tzinfo=UTC), RunState(), timedelta(minutes=17)
    asked: set[str] = set()
    started: list[str] = []
    for number, (owner, finish, minutes) in enumerate(steps):
        now += timedelta(minutes=minutes)
        if finish and state.owner == owner and state.run_id:
            state = state.finished(owner, state.run_id)
            continue
        before = state
        state = state.triggered(Trigger(str(number), (f"i-{number:08x}",)))
        asked.add(f"i-{number:08x}")
        state = state.taken(owner, now, lease, f"run{number}")
        if state.run_id and state.run_id != before.run_id:
            started += state.scope
        if before.owner and before.owner != owner and now < datetime.fromisoformat(before.lease_until):
            assert state.owner == before.owner
        assert RunState.parse(state.to_json()) == state
    assert asked == {*started, *state.pending}
    assert len(started) == len(set(started))


def test_a_step_whose_answer_was_lost_counts_once():
    from nitrokit.handlers.run_state import Chunk

    state = RunState().triggered(ALL).taken("me", datetime.now(UTC), timedelta(minutes=1), "run")
    chunk = Chunk("hello", instance(9), {"PASS": 10}, [], 0)
    once = state.advanced("me", state, chunk)
    assert once.advanced("me", state, chunk) == once
    assert once.next_fleet("me", once).next_fleet("me", once) == once.next_fleet("me", once)
    assert once.finished("me", "run").finished("me", "run").run_id is None
    assert EVERYTHING in once.scope
    with pytest.raises(RunError):
        once.advanced("you", once, chunk)
