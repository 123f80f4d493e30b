"""What differs between two EIFs, and which PCRs that moves: by section, then by file."""

from __future__ import annotations

import difflib
import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nitrokit.core.eif import Eif, SectionType
from nitrokit.image.archive import Entry, entries
from nitrokit.image.errors import ImageError

_MAX_TEXT = 256 << 10
_MAX_DIFF_LINES = 60
_BOOT, _APPLICATION = ("PCR0", "PCR1"), ("PCR0", "PCR2")


@dataclass(frozen=True)
class Change:
    """One difference of one file. ``kind``: added, removed, content, mode, owner, link, type, device. ``diff``: unified, for text."""

    path: str
    kind: str
    before: str | None
    after: str | None
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class SectionDifference:
    """A section that differs. ``pcrs``: what it moves (nothing for metadata). ``note``: why nothing is told of its files."""

    name: str
    pcrs: tuple[str, ...]
    before: str | None
    after: str | None
    changes: tuple[Change, ...] = ()
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        changes = [
            {"path": one.path, "kind": one.kind, "before": one.before, "after": one.after, "diff": list(one.diff)} for one in self.changes
        ]
        return {
            "section": self.name,
            "pcrs": list(self.pcrs),
            "before": self.before,
            "after": self.after,
            "note": self.note,
            "changes": changes,
        }


def compare(before: Eif, after: Eif) -> list[SectionDifference]:
    """The sections that differ, in file order of the first. Raises EifError when a file changes meanwhile."""
    one, other = _sections(before), _sections(after)
    return [
        _compare(name, one.get(name), other.get(name))
        for name in [*one, *(name for name in other if name not in one)]
        if one.get(name) != other.get(name)
    ]


def section_pcrs(name: str) -> tuple[str, ...]:
    """The PCRs that a section moves: kernel, cmdline, ramdisk0, ramdisk1 …, signature, metadata."""
    if name in ("metadata", "header"):
        return ()
    if name == "signature":
        return ("PCR8",)
    return _APPLICATION if name.startswith("ramdisk") and name != "ramdisk0" else _BOOT


def section_hashes(eif: Eif) -> dict[str, str]:
    """Name → SHA-256 in hex of each section that is measured. Raises EifError when the file changes meanwhile."""
    found: dict[str, str] = {}
    for section in eif.sections:
        if section.type in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK):
            digest = hashlib.sha256()
            for chunk in eif.chunks(section):
                digest.update(chunk)
            number = sum(name.startswith("ramdisk") for name in found)
            found[f"ramdisk{number}" if section.type is SectionType.RAMDISK else section.type.name.lower()] = digest.hexdigest()
    return found


def _sections(eif: Eif) -> dict[str, bytes]:
    found = {"header": f"version {eif.version}, {eif.arch}".encode()}
    for section in eif.sections:
        name = section.type.name.lower()
        number = sum(one.startswith("ramdisk") for one in found)
        found[f"{name}{number}" if section.type is SectionType.RAMDISK else name] = eif.read(section)
    return found


def _compare(name: str, before: bytes | None, after: bytes | None) -> SectionDifference:
    described = [
        None if data is None else f"{len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}…" for data in (before, after)
    ]
    changes: tuple[Change, ...] = ()
    note = None
    if before is not None and after is not None:
        try:
            changes = tuple(_files(before, after) if name.startswith("ramdisk") else _text(name, before, after))
            note = (
                None
                if changes
                else "the same files: their order, times, padding or compression differ"
                if name.startswith("ramdisk")
                else None
            )
        except ImageError as error:
            note = f"{error.what}: {error.got}"
    return SectionDifference(name, section_pcrs(name), described[0], described[1], changes, note)


def _text(name: str, before: bytes, after: bytes) -> Iterator[Change]:
    diff = _diff(before, after)
    if diff:
        yield Change(name, "content", None, None, diff)


def _files(before: bytes, after: bytes) -> Iterator[Change]:
    one, other = entries(before), entries(after)
    for path in sorted(one.keys() | other.keys()):
        if path not in other:
            yield Change(path, "removed", _describe(one[path]), None)
        elif path not in one:
            yield Change(path, "added", None, _describe(other[path]))
        else:
            yield from _file(path, one[path], other[path])


def _file(path: str, one: Entry, other: Entry) -> Iterator[Change]:
    if one.kind != other.kind:
        yield Change(path, "type", _describe(one), _describe(other))
        return
    if stat.S_IMODE(one.mode) != stat.S_IMODE(other.mode):
        yield Change(path, "mode", f"{stat.S_IMODE(one.mode):04o}", f"{stat.S_IMODE(other.mode):04o}")
    if one.owner != other.owner:
        yield Change(path, "owner", "{}:{}".format(*one.owner), "{}:{}".format(*other.owner))
    if one.kind == "special" and (one.mode, one.device) != (other.mode, other.device):
        yield Change(path, "device", "{}:{}".format(*one.device), "{}:{}".format(*other.device))
    if one.data != other.data:
        if one.kind == "link":
            yield Change(path, "link", bytes(one.data).decode(errors="replace"), bytes(other.data).decode(errors="replace"))
        else:
            yield Change(path, "content", _describe(one), _describe(other), _diff(bytes(one.data), bytes(other.data)))


def _describe(entry: Entry) -> str:
    if entry.kind == "file":
        return f"{len(entry.data):,} bytes, {stat.S_IMODE(entry.mode):04o}, sha256 {entry.sha256()[:16]}…"
    if entry.kind == "link":
        return f"link to {bytes(entry.data).decode(errors='replace')}"
    return f"{entry.kind}, {stat.S_IMODE(entry.mode):04o}"


def _diff(before: bytes, after: bytes) -> tuple[str, ...]:
    """A unified diff of two texts; nothing for other content."""
    if max(len(before), len(after)) > _MAX_TEXT:
        return ()
    try:
        one, other = before.decode(), after.decode()
    except UnicodeDecodeError:
        return ()
    if "\0" in one + other:
        return ()
    lines = list(difflib.unified_diff(one.splitlines(), other.splitlines(), lineterm="", n=1))[2:]
    return tuple([*lines[:_MAX_DIFF_LINES], f"… {len(lines) - _MAX_DIFF_LINES} more lines"] if len(lines) > _MAX_DIFF_LINES else lines)
