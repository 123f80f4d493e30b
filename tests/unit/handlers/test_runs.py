"""Runs over a fleet: invocations that die, race, repeat and run out of time. Nothing lost, nothing counted twice."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.handlers import checker as checker_module
from nitrokit.handlers.run_state import EVERYTHING, RunError, RunState, Trigger

ALL = Trigger("event")
ROLE = "arn:aws:iam::123456789012:role/host"


def instance(number):
    return f"i-{number:017x}"


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
    with pytest.raises(RunError, match="taken this run over") as caught:
        found.run(ALL, owner="first")
    assert (caught.value.code, caught.value.expected) == ("run/taken-over", "first")
    assert found.ledger.head().frontier.size == 3


@pytest.mark.parametrize("losses", [7, 8])
def test_a_state_that_others_always_write_faster_is_given_up_and_nothing_of_theirs_lost(site, losses):
    """Eight tries: whoever invokes the function sees that the trigger was not kept, and does so again."""
    store, others = site({}).store, iter(range(losses))

    def step(state):
        if (number := next(others, None)) is not None:
            store.update(lambda theirs: theirs.triggered(Trigger(f"other{number}")))
        return state.triggered(Trigger("mine"))

    if losses == 8:
        with pytest.raises(RunError) as caught:
            store.update(step)
        assert (caught.value.code, caught.value.do) == ("run/contended", "invoke it again")
    else:
        store.update(step)
    kept = {f"other{number}" for number in range(losses)}
    assert set(store.update(lambda state: state).triggers) == (kept if losses == 8 else {*kept, "mine"})


def test_a_mark_is_moved_by_whoever_read_it_last(site):
    store = site({}).store
    store.set_mark("audit", "1", None)
    for before in (None, "0", "2"):
        with pytest.raises(RunError) as caught:
            store.set_mark("audit", "9", before)
        assert (caught.value.code, caught.value.got, store.mark("audit")) == ("run/taken-over", "audit", "1")
    store.set_mark("audit", "2", "1")
    assert (store.mark("audit"), store.mark("other")) == ("2", None)


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


def test_ten_thousand_launches_at_once_wait_in_one_item():
    """An item holds 400 KB (Amazon DynamoDB Developer Guide, "Quotas"): what outgrows it is all hosts."""
    state = RunState()
    for number in range(10_000):
        state = state.triggered(Trigger(str(number), (instance(number),)))
    state = state.taken("me", datetime.now(UTC), timedelta(minutes=1), "run")
    assert all(state.covers(instance(number)) for number in range(10_000))
    few = RunState().triggered(Trigger("1", (instance(1),))).triggered(Trigger("2", (instance(2),)))
    assert few.pending == (instance(1), instance(2))
    for number in range(10_000):
        state = state.triggered(Trigger(f"again{number}", (instance(number),)))
    assert len(state.to_json()) < 100_000
