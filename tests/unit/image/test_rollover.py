"""The lock of an image during a rollover."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nitrokit.core.measurements import Measurements, MeasurementsError, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.image.build import BuiltImage
from nitrokit.image.errors import LockError
from nitrokit.image.lock import read_lock, record_measurements

OLD, NEW, NEWER = (Measurements(digest([name]), digest([b"boot"]), digest([name, b"app"])) for name in (b"old", b"new", b"newer"))
DATE = datetime(2030, 1, 1, tzinfo=UTC)


def _record(folder, measurements, **options):
    return record_measurements(folder, BuiltImage(Path("x.eif"), measurements, {"kernel": measurements.pcr1.hex()}), **options)


def test_the_old_set_is_kept_until_its_date_and_stays_when_the_image_is_locked_again(tmp_path):
    assert _record(tmp_path, OLD) == ReferenceValues(OLD)
    rollover = _record(tmp_path, NEW, keep_old_until=DATE)
    assert rollover == ReferenceValues(NEW, (RetiringSet(OLD, DATE),))
    lock = read_lock(tmp_path)
    assert (lock.reference_values, lock.measurements) == (rollover, NEW)
    assert _record(tmp_path, NEW) == rollover
    assert _record(tmp_path, NEWER).sets() == (NEWER, OLD), "a set that was current for a moment is dropped, the retiring one stays"
    assert _record(tmp_path, OLD, keep_old_until=DATE + timedelta(days=1)).sets() == (OLD, NEWER)


def test_a_lock_that_cannot_be_read_is_begun_anew_but_never_rolled_over(tmp_path):
    file = tmp_path / "measurements.json"
    for torn, error in (("<<<<<<<", MeasurementsError), (None, LockError)):
        file.unlink(missing_ok=True)
        if torn:
            file.write_text(torn)
        with pytest.raises(error):
            _record(tmp_path, NEW, keep_old_until=DATE)
        assert (file.read_text() if file.exists() else None) == torn
        assert _record(tmp_path, NEW) == ReferenceValues(NEW)
    assert json.loads(file.read_text()) == NEW.as_object()
