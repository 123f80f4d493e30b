"""measurements.json during a rollover."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.measurements import Measurements, MeasurementsError, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet

OLD, NEW, OLDER = (Measurements(digest([name]), digest([b"boot"]), digest([name, b"app"])) for name in (b"old", b"new", b"older"))
DATE = datetime(2026, 12, 31, tzinfo=UTC)
ROLLOVER = ReferenceValues(NEW, (RetiringSet(OLD, DATE),))
SECOND = timedelta(seconds=1)


def test_a_file_without_a_rollover_is_what_it_always_was():
    assert ReferenceValues.parse(OLD.to_json()) == ReferenceValues(OLD)
    assert ReferenceValues(OLD).to_json() == OLD.to_json()


def test_whoever_knows_nothing_of_a_rollover_reads_the_current_set():
    text = ROLLOVER.to_json()
    assert Measurements.parse(text) == NEW
    assert json.loads(text)["Retiring"] == [{**OLD.as_object(), "RetireAfter": "2026-12-31T00:00:00Z"}]


def test_a_set_is_accepted_up_to_its_date_and_then_past_it():
    assert ROLLOVER.sets() == (NEW, OLD)
    assert ROLLOVER.accepted_at(DATE) == (NEW, OLD)
    assert ROLLOVER.past(DATE) == ()
    assert ROLLOVER.accepted_at(DATE + SECOND) == (NEW,)
    assert ROLLOVER.past(DATE + SECOND) == ROLLOVER.retiring


def test_dates_are_kept_in_utc():
    there = timezone(timedelta(hours=5, minutes=30))
    assert RetiringSet(OLD, DATE.astimezone(there)).as_object()["RetireAfter"] == "2026-12-31T00:00:00Z"


def test_a_rollover_keeps_the_old_set_and_a_roll_back_takes_it_out_again():
    assert ReferenceValues(OLD).rolled_over(NEW, DATE) == ROLLOVER
    assert ReferenceValues(OLD).rolled_over(NEW) == ReferenceValues(NEW)
    assert ReferenceValues(OLD).rolled_over(OLD, DATE) == ReferenceValues(OLD)
    later = DATE + SECOND
    assert ROLLOVER.rolled_over(NEW, later) == ReferenceValues(NEW, (RetiringSet(OLD, later),)), "the rollover takes longer"
    again = ROLLOVER.rolled_over(OLDER, DATE)
    assert again.sets() == (OLDER, OLD, NEW)
    assert again.rolled_over(OLDER, DATE) == again
    assert ROLLOVER.rolled_over(OLD, DATE).sets() == (OLD, NEW)
    assert ROLLOVER.without(ROLLOVER.past(DATE)) == ROLLOVER
    assert ROLLOVER.without(ROLLOVER.past(DATE + SECOND)) == ReferenceValues(NEW)


def _file(**retiring):
    entry = {**OLD.as_object(), "RetireAfter": "2026-12-31T00:00:00Z"} | retiring
    return json.dumps({**NEW.as_object(), "Retiring": [{key: value for key, value in entry.items() if value is not ...}]})


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("{}", "bad-pcr"), ("[]", "no-measurements"), (json.dumps({**NEW.as_object(), "Retiring": {}}), "retiring"), (json.dumps({**NEW.as_object(), "Retiring": None}), "retiring"),
        (json.dumps({**NEW.as_object(), "Retiring": [[]]}), "retiring"), (_file(RetireAfter=...), "retiring"), (_file(retireAfter="x"), "retiring"), (_file(Measurements=...), "retiring"),
        (_file(Measurements=[]), "no-measurements"), (_file(Measurements={"PCR0": "00"}), "bad-pcr"), (_file(RetireAfter=1), "retire-after"), (_file(RetireAfter="2026-12-31"), "retire-after"),
        (_file(RetireAfter="2026-12-31T00:00:00+00:00"), "retire-after"), (_file(RetireAfter="2026-02-30T00:00:00Z"), "retire-after"), (_file(RetireAfter="٢٠٢٦-12-31T00:00:00Z"), "retire-after"),
        (_file(Measurements=NEW.as_object()["Measurements"]), "twice"),
    ],
)  # fmt: skip
def test_bad_files_are_our_errors(text, slug):
    with pytest.raises(MeasurementsError) as caught:
        ReferenceValues.parse(text)
    assert caught.value.code == f"measurements/{slug}"


@pytest.mark.parametrize("date", [datetime(2026, 12, 31), datetime(2026, 12, 31, 0, 0, 0, 1, tzinfo=UTC)])
def test_a_date_has_a_zone_and_whole_seconds(date):
    with pytest.raises(MeasurementsError) as caught:
        RetiringSet(OLD, date)
    assert caught.value.slug == "retire-after"


_pcr = st.binary(min_size=48, max_size=48)
_sets = st.builds(Measurements, _pcr, _pcr, _pcr, st.none() | _pcr)
_dates = st.datetimes(timezones=st.just(UTC)).map(lambda date: date.replace(microsecond=0))


@given(st.lists(_sets, min_size=1, max_size=4, unique=True), st.lists(_dates, min_size=3, max_size=3), _dates)
def test_what_is_written_is_read_and_every_set_is_accepted_or_past(sets, dates, now):
    values = ReferenceValues(sets[0], tuple(map(RetiringSet, sets[1:], dates)))
    assert ReferenceValues.parse(values.to_json()) == values
    past = tuple(one.measurements for one in values.past(now))
    assert sorted(values.accepted_at(now) + past, key=repr) == sorted(values.sets(), key=repr)
