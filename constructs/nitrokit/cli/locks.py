"""The locks that a command was given, as the sets of measurements that they accept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nitrokit.core.attestation import AppraisalError
from nitrokit.core.measurements import Measurements
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import UsageError


@dataclass(frozen=True)
class LockedSet:
    """Where a set stands, and until when it is accepted; None: it is a lock's current set."""

    path: Path
    retire_after: datetime | None

    def __str__(self) -> str:
        return str(self.path) if self.retire_after is None else f"{self.path}, until {self.retire_after:%Y-%m-%d %H:%M:%S} UTC"

    def require_accepted_at(self, time: datetime) -> None:
        """Raises AppraisalError when the set's date has passed at ``time``."""
        if self.retire_after is not None and time > self.retire_after:
            raise AppraisalError(
                "retired",
                "the enclave runs an image whose measurements are retired",
                got=time.isoformat(),
                expected=f"at most {self.retire_after.isoformat()}, as {self.path} says",
                do="replace the enclave's image by the current one",
            )


def read_locks(paths: Sequence[Path]) -> dict[Measurements, LockedSet]:
    """All sets of measurements.json files or image folders; of a set in several, the one that is accepted longest. Raises UsageError, MeasurementsError."""
    found: dict[Measurements, LockedSet] = {}
    for path in paths:
        values = _read(path)
        for retiring in values.retiring:
            other = found.get(retiring.measurements)
            if other is None or (other.retire_after is not None and other.retire_after < retiring.retire_after):
                found[retiring.measurements] = LockedSet(path, retiring.retire_after)
        found[values.current] = LockedSet(path, None)
    return found


def _read(path: Path) -> ReferenceValues:
    file = path / "measurements.json" if path.is_dir() else path
    try:
        return ReferenceValues.parse(file.read_bytes())
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {file}", got=str(error), do="check the path") from error
