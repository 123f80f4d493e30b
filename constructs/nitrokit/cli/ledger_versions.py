"""Which version measurements belong to: locks as they are, and as they were in git."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nitrokit.cli.locks import read_locks
from nitrokit.core.measurements import Measurements
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import NitrokitError

Versions = dict[Measurements, str]


def read_versions(paths: Sequence[Path]) -> Versions:
    """Names for sets of measurements: the lock that holds one now, else the newest commit whose lock held it. Raises UsageError, MeasurementsError."""
    found: Versions = {one: str(locked.path) for one, locked in read_locks(paths).items()}
    for path in paths:
        for name, values in _history(path / "measurements.json" if path.is_dir() else path):
            for one in values.sets():
                found.setdefault(one, name)
    return found


def version_of(pcrs: Mapping[int, bytes], versions: Versions) -> str | None:
    """The name of the set that PCRs of an enclave are; an unsigned image's PCR8 is zero there."""
    named = {**pcrs, 8: pcrs[8] if any(pcrs.get(8, b"")) else None}
    return next((name for one, name in versions.items() if all(named.get(index) == value for index, value in one.pcrs().items())), None)


def _history(file: Path) -> Iterator[tuple[str, ReferenceValues]]:
    """A file's former contents, the newest first; none where it is not in git."""
    log = _git(file, "log", "--format=%H %cs %s", "--", file.name)
    for line in log.decode(errors="replace").splitlines():
        commit, _, rest = line.partition(" ")
        try:
            yield f"{file.parent} in commit {commit[:12]} of {rest}", ReferenceValues.parse(_git(file, "show", f"{commit}:./{file.name}"))
        except NitrokitError:
            continue  # not yet a lock, or deleted in this commit


def _git(file: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(file.parent), *arguments], capture_output=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return b""
