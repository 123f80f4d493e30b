"""Where a set stands: current, retiring with a date, past it, unknown; and what a whole consumer's sets come to."""

import json
from datetime import timedelta

import pytest

from nitrokit.core.measurements import Measurements, digest
from nitrokit.gate.consumers import compare_accepted
from nitrokit.gate.locks import Standing, compare_locks, differences, place, read_images
from nitrokit.gate.report import Outcome, Place
from nitrokit.gate.rules import RULES

from .conftest import FOREIGN, NEW, NOW, OLD, locked, measured, rules

OTHER = locked(measured(b"other"), name="other")


def _accepted(sets, *images):
    return compare_accepted(Place.KEY, "key", [one.pcrs() for one in sets], images, NOW)


@pytest.mark.parametrize(
    ("sets", "image", "rule", "outcome"),
    [
        ([NEW], locked(), "agrees", Outcome.AGREES),
        ([NEW, OLD], locked(NEW, (OLD, 3)), "planned-rollover", Outcome.PLANNED),
        ([OLD], locked(NEW, (OLD, 3)), "planned-rollover", Outcome.PLANNED),
        ([NEW], locked(NEW, (OLD, 3)), "agrees", Outcome.AGREES),
        ([NEW, OLD], locked(NEW, (OLD, -3)), "set-past-date", Outcome.DRIFT),
        ([OLD], locked(NEW, (OLD, -3)), "set-past-date", Outcome.DRIFT),
        ([NEW, OLD], locked(), "unknown-set", Outcome.DRIFT),
        ([OLD], locked(), "unknown-set", Outcome.DRIFT),
        ([FOREIGN, NEW, OLD], locked(NEW, (OLD, -3)), "unknown-set", Outcome.DRIFT),
    ],
)  # fmt: skip
def test_planned_or_drift(sets, image, rule, outcome):
    found = _accepted(sets, image)
    assert (found.rule_id, found.outcome) == (rule, outcome)
    assert outcome is Outcome.AGREES or found.rule.fix


def test_a_consumer_of_two_images_must_accept_both_current_sets():
    assert _accepted([NEW, OTHER.values.current], locked(), OTHER).image == "hello, other"
    assert _accepted([NEW], locked(), OTHER).rule_id == "agrees", "a key need not be for every image"
    mixed = _accepted([OTHER.values.current, OLD], locked(NEW, (OLD, 3)), OTHER)
    assert (mixed.rule_id, mixed.until) == ("planned-rollover", locked(NEW, (OLD, 3)).values.retiring[0].retire_after)

    assert "accepts only what retires of hello:" in mixed.reason
    both = _accepted([NEW, OLD, OTHER.values.current], locked(NEW, (OLD, 3)), OTHER)
    assert (both.rule_id, both.reason) == ("planned-rollover", "accepts the current set, and until its date one that retires")


def test_an_unknown_set_is_told_by_every_pcr_that_differs_from_the_nearest():
    found = _accepted([FOREIGN], locked(), OTHER)
    assert any(FOREIGN.pcr0.hex() in line and NEW.pcr0.hex() in line for line in found.details)
    assert not any("PCR1 locked" in line for line in found.details), "the kernel is the same"

    near = Measurements(FOREIGN.pcr0, NEW.pcr1, NEW.pcr2)
    assert differences(near.pcrs(), [OTHER, locked()]) == (f"PCR0 locked {NEW.pcr0.hex()} got {FOREIGN.pcr0.hex()}",)
    part = {index: value for index, value in FOREIGN.pcrs().items() if index == 0}
    assert differences(part, [locked()]) == (f"PCR0 locked {NEW.pcr0.hex()} got {FOREIGN.pcr0.hex()}",), (
        "of what is not compared nothing is told"
    )
    assert _accepted([FOREIGN]).rule_id == "unknown-set", "without any lock, too"


def test_the_date_itself_is_the_last_accepted_second():
    image = locked(NEW, (OLD, 0))
    until = image.values.retiring[0].retire_after
    assert place(OLD.pcrs(), [image], until).standing is Standing.RETIRING
    assert place(OLD.pcrs(), [image], until + timedelta(seconds=1)).standing is Standing.PAST


def test_a_set_of_several_images_stands_where_it_stands_best():
    """An older image folder may retire what is another one's current set."""
    current, retiring, past = locked(name="a"), locked(FOREIGN, (NEW, 3), name="b"), locked(FOREIGN, (NEW, -3), name="c")
    for images, best in (
        ([past, retiring, current], current),
        ([current, retiring, past], current),
        ([past, retiring], retiring),
        ([retiring, past], retiring),
    ):
        assert place(NEW.pcrs(), images, NOW).image is best


def test_part_of_a_set_tells_the_image_only_with_pcr0_or_with_pcr1_and_pcr2():
    pcrs = NEW.pcrs()
    for kept, standing in (
        ((0,), Standing.CURRENT),
        ((1, 2), Standing.CURRENT),
        ((1,), Standing.UNKNOWN),
        ((2,), Standing.UNKNOWN),
        ((), Standing.UNKNOWN),
    ):
        assert place({index: pcrs[index] for index in kept}, [locked()], NOW).standing is standing
    signed = Measurements(NEW.pcr0, NEW.pcr1, NEW.pcr2, digest([b"certificate"]))
    assert place(signed.pcrs(), [locked()], NOW).standing is Standing.UNKNOWN, "a PCR8 that is not locked"


def test_a_lock_with_a_set_past_its_date_fails_by_itself():
    assert rules(compare_locks([locked()], NOW)) == ["agrees"]
    assert rules(compare_locks([locked(NEW, (OLD, 1))], NOW)) == ["planned-rollover"]
    (found,) = compare_locks([locked(NEW, (OLD, 1), (FOREIGN, 3), (measured(b"older"), 2))], NOW)
    assert found.until == NOW + timedelta(days=3), "a rollover is over when the last set retires"
    assert rules(compare_locks([locked(NEW, (OLD, -1), (FOREIGN, 1))], NOW)) == ["set-past-date"]


def test_locks_are_read_with_the_name_that_the_enclave_has(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "enclave.toml").write_text('[enclave]\nname = "named"\narch = "x86_64"\n[eif]\npath = "x.eif"\n')
    (folder / "measurements.json").write_text(locked(NEW, (OLD, 3)).values.to_json())
    (folder / "image.lock.json").write_text(json.dumps({"sections": {"kernel": "0" * 64}}))
    (image,) = read_images([folder])
    assert (image.name, image.values.sets(), image.path) == ("named", (NEW, OLD), str(folder / "measurements.json"))


def test_every_rule_says_who_and_how():
    assert all(rule.title and ((rule.who and rule.fix) or rule.id == "agrees") for rule in RULES.values())
