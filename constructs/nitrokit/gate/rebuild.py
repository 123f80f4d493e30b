"""(1) A rebuild from source: does it give what is locked, and if not, which section and which file moved?"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from nitrokit.core.eif import read_eif
from nitrokit.core.measurements import Measurements
from nitrokit.errors import EnvironmentProblem, NitrokitError
from nitrokit.gate.locks import LockedImage
from nitrokit.gate.report import Comparison, Place
from nitrokit.image.build import BuiltImage, build_image, read_manifest
from nitrokit.image.difference import SectionDifference, compare, section_hashes
from nitrokit.image.explain import explain
from nitrokit.image.kernel import kernel_for
from nitrokit.image.lock import MEASUREMENTS, ImageLock

_MAX_FILES = 40


@dataclass(frozen=True)
class Workshop:
    """What a build needs. ``environment``: names the kernels' folder; ``references``: EIFs that may be the locked image, to compare files with."""

    environment: Mapping[str, str]
    cache: Path
    progress: Callable[[str], None]
    references: Sequence[Path] = ()

    def build(self, folder: Path, output: Path) -> BuiltImage:
        """With the kernel of the folder's own architecture, or none where it needs none. Raises as ``kernel_for`` and ``build_image`` do."""
        kernel = kernel_for(read_manifest(folder), self.environment, self.cache, self.progress)
        return build_image(folder, kernel=kernel, output=output, cache=self.cache, progress=self.progress)


def compare_rebuild(image: LockedImage, workshop: Workshop) -> Comparison:
    """Build the folder, whatever the cache holds of it, and compare. What keeps it from being built is ``unreachable``, or drift where the source itself is refused."""
    with tempfile.TemporaryDirectory(prefix="nitrokit-gate-") as folder:
        work = Path(folder)
        try:
            built = workshop.build(image.folder, work / "rebuilt.eif")
        except EnvironmentProblem as error:
            return _found(image, "unreachable", str(error))
        except NitrokitError as error:
            return _found(image, "rebuild-differs", f"the source does not build: {error}")
        if built.measurements != image.values.current:
            return _found(image, "rebuild-differs", _reason(image, built), _what_moved(image, built, workshop, work))
    if built.sections == image.sections:
        return _found(image, "agrees", "the source builds what is locked")
    return _found(image, "lock-torn", "the rebuild has the locked measurements, but image.lock.json names other sections")


def _found(image: LockedImage, rule: str, reason: str, details: Sequence[str] = ()) -> Comparison:
    return Comparison(Place.REBUILD, str(image.folder), rule, reason, image.name, tuple(details), image.path)


def _what_moved(image: LockedImage, built: BuiltImage, workshop: Workshop, work: Path) -> list[str]:
    differences = image.values.current.differences(built.measurements)
    pcrs = [f"PCR{one.index} locked {one.expected.hex()} built {(one.got or b'').hex()}" for one in differences]
    sentences = explain(ImageLock(image.values, dict(image.sections)), built)
    return [*pcrs, *sentences, *_files(image, built, workshop, work)]


def _reason(image: LockedImage, built: BuiltImage) -> str:
    old = next((one for one in image.values.retiring if one.measurements == built.measurements), None)
    if old is not None:
        return f"the source builds the set that retires on {old.retire_after:%Y-%m-%d %H:%M} UTC, not the current one"
    moved = sorted(name for name in built.sections if image.sections.get(name) != built.sections[name])
    return f"the source builds other measurements than are locked: {', '.join(moved) or 'PCRs'} moved"


def _files(image: LockedImage, built: BuiltImage, workshop: Workshop, work: Path) -> list[str]:
    """Which files moved, where an EIF of the locked image can be had: given, cached, or built from the commit that locked it."""
    moved = {name for name in built.sections if image.sections.get(name) != built.sections[name]}
    for reference in _references(image, workshop, work):
        with reference.open("rb") as before, built.eif.open("rb") as after:
            old = read_eif(before)
            hashes = section_hashes(old)
            known = {name for name in moved if hashes.get(name) == image.sections.get(name)}
            if known:
                return [line for one in compare(old, read_eif(after)) if one.name in known for line in _lines(one)]
    return ["no EIF of the locked image is at hand: name one with --reference to see which files moved"]


def _references(image: LockedImage, workshop: Workshop, work: Path) -> Iterator[Path]:
    yield from (path for path in workshop.references if _measures(path, image))
    for record in sorted((workshop.cache / "images").glob("*/built.json")):
        eif = next(record.parent.glob("*.eif"), None)
        if eif and Measurements.parse(record.read_bytes()) == image.values.current:
            yield eif
    if (before := _as_locked(image.folder, work)) is not None:
        try:
            yield workshop.build(before, work / "locked.eif").eif
        except NitrokitError:
            return  # that commit cannot be built here any more: its files stay unknown


def _measures(path: Path, image: LockedImage) -> bool:
    try:
        with path.open("rb") as file:
            return read_eif(file).measurements == image.values.current
    except (OSError, NitrokitError):
        return False


def _as_locked(folder: Path, work: Path) -> Path | None:
    """The folder as it was when its measurements were last committed; None outside a git repository."""

    def git(*arguments: str) -> bytes | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 and done.stdout else None

    commit = git("log", "-1", "--format=%H", "--", MEASUREMENTS)
    archive = git("archive", "--format=tar", commit.decode().strip(), ".") if commit else None
    if archive is None:
        return None
    target = work / folder.resolve().name
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return target


def _lines(section: SectionDifference) -> Iterator[str]:
    yield f"{section.name} ({', '.join(section.pcrs) or 'not measured'})" + (f": {section.note}" if section.note else "")
    for change in section.changes[:_MAX_FILES]:
        values = " → ".join(text for text in (change.before, change.after) if text)
        yield f"{section.name}: {change.kind} {change.path}  {values}".rstrip()
    if len(section.changes) > _MAX_FILES:
        yield f"{section.name}: {len(section.changes) - _MAX_FILES} more files"
