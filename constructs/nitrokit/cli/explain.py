"""``nitrokit explain A B``: which PCRs differ between two images, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.output import JsonOption, Steps, printable, result
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.core.eif import Eif
    from nitrokit.core.measurements import Measurements
    from nitrokit.image.difference import SectionDifference
    from nitrokit.image.lock import ImageLock


def explain(
    before: Annotated[Path, typer.Argument(help="An EIF, an image folder (it is built), or a measurements.json.")],
    after: Annotated[Path, typer.Argument(help="What to compare it with: the same.")],
    as_json: JsonOption = False,
) -> None:
    """Say which PCRs differ between two images, and why. By section, file and kind of change (exit 1: they differ)."""
    from nitrokit.image.difference import compare

    with ExitStack() as stack:
        one, other = (_open(path, stack) for path in (before, after))
        old, new = one.measurements.pcrs(), other.measurements.pcrs()
        pcrs = [index for index in sorted(old.keys() | new.keys()) if old.get(index) != new.get(index)]
        sections = compare(one.eif, other.eif) if one.eif and other.eif else _by_hash(one, other)
    value = {
        "before": str(before),
        "after": str(after),
        "pcrs": {f"PCR{index}": {"before": _hex(old.get(index)), "after": _hex(new.get(index))} for index in pcrs},
        "sections": [section.as_dict() for section in sections],
    }
    result(value, as_json=as_json, human=lambda: print("\n".join(map(printable, _lines(value, sections)))))
    if pcrs:
        raise typer.Exit(1)


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


class _Side:
    """One of the two: its measurements, and its EIF where there is one; of a lock, the sections' hashes."""

    def __init__(self, measurements: Measurements, eif: Eif | None, sections: dict[str, str]) -> None:
        self.measurements = measurements
        self.eif = eif
        self.sections = sections


def _open(path: Path, stack: ExitStack) -> _Side:
    from nitrokit.core.eif import read_eif
    from nitrokit.image.difference import section_hashes

    if path.is_dir():
        path = _build(path)
    elif path.suffix == ".json":
        lock = _lock(path)
        return _Side(lock.measurements, None, lock.sections)
    try:
        eif = read_eif(stack.enter_context(path.open("rb")))
    except OSError as error:
        raise UsageError(
            "unreadable-file", f"cannot read {path}", got=str(error), expected="an EIF, an image folder or a measurements.json"
        ) from error
    return _Side(eif.measurements, eif, section_hashes(eif))


def _build(folder: Path) -> Path:
    from nitrokit.image.build import read_manifest
    from nitrokit.image.cached import build_cached
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import kernel_for

    manifest = read_manifest(folder)
    steps, cache = Steps(), cache_dir(os.environ)
    with steps.step(f"build {folder}"):
        kernel = kernel_for(manifest, os.environ, cache, steps.note)
        built, _ = build_cached(folder, kernel=kernel, cache=cache, progress=steps.note)
    return built.eif


def _lock(path: Path) -> ImageLock:
    """A measurements.json, with the sections' hashes beside it where they are."""
    from nitrokit.core.reference_values import ReferenceValues
    from nitrokit.image.lock import SECTIONS, ImageLock, read_lock

    if (path.parent / SECTIONS).is_file():
        return read_lock(path.parent)
    try:
        return ImageLock(ReferenceValues.parse(path.read_bytes()), {})
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), do="check the path") from error


def _by_hash(one: _Side, other: _Side) -> list[SectionDifference]:
    """What a lock can tell: the sections whose hashes differ."""
    from nitrokit.image.difference import SectionDifference, section_pcrs

    names = [name for name in one.sections if name in other.sections and one.sections[name] != other.sections[name]]
    note = "a lock has no files: compare two EIFs, or a folder with an EIF"
    return [
        SectionDifference(name, section_pcrs(name), f"sha256 {one.sections[name][:16]}…", f"sha256 {other.sections[name][:16]}…", note=note)
        for name in names
    ]


def _lines(value: dict[str, Any], sections: list[SectionDifference]) -> Iterator[str]:
    if not value["pcrs"]:
        yield "no PCR differs" + ("; what differs is not measured:" if sections else "")
    for name, pair in value["pcrs"].items():
        yield f"{name} {pair['before'] or 'nothing'}"
        yield f"  → {pair['after'] or 'nothing'}"
    for section in sections:
        yield ""
        yield f"{section.name} ({', '.join(section.pcrs) or 'not measured'}): {section.before or 'absent'} → {section.after or 'absent'}"
        if section.note:
            yield f"  {section.note}"
        for change in section.changes:
            values = " → ".join(text for text in (change.before, change.after) if text)
            yield f"  {change.kind:<8} {change.path}" + (f"  {values}" if values else "")
            yield from (f"    {line}" for line in change.diff)
