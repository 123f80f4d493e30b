"""The images of the demo: the real one, built twice and compared with its lock, and one whose app differs in a byte."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nitrokit.emulation.demo.report import Report
from nitrokit.image.build import BuiltImage, build_image, read_manifest
from nitrokit.image.explain import explain
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.lock import read_lock, record_measurements


@dataclass(frozen=True)
class Images:
    """``folder`` is a copy of the image folder whose lock agrees with what this machine built."""

    name: str
    folder: Path
    good: BuiltImage
    tampered: BuiltImage


def prepare(folder: Path, work: Path, kernel: KernelBlobs, cache: Path, report: Report, note: Callable[[str], None]) -> Images:
    """Build the image twice from two folders, compare bytes and lock, and build the tampered one. Raises the image room's errors."""
    manifest = read_manifest(folder)
    copies = [work / "first" / folder.name, work / "a longer path" / folder.name]
    for copy in copies:
        shutil.copytree(folder, copy)
    built = [
        build_image(copy, kernel=kernel, output=work / f"{manifest.name}-{number}.eif", cache=cache, progress=note)
        for number, copy in enumerate(copies)
    ]
    _compare_builds(built, report)
    _compare_lock(folder, copies[0], built[0], report)
    tampered = _tamper(copies[1], work, kernel, cache, note, manifest.app.source or ".")
    report.image = {
        "name": manifest.name,
        "size": built[0].eif.stat().st_size,
        "kernel": kernel.source,
        "pcrs": {f"PCR{index}": pcr.hex() for index, pcr in built[0].measurements.pcrs().items()},
        "tampered_pcrs": {f"PCR{index}": pcr.hex() for index, pcr in tampered.measurements.pcrs().items()},
    }
    return Images(manifest.name, copies[0], built[0], tampered)


def _compare_builds(built: list[BuiltImage], report: Report) -> None:
    digests = [_sha256(image.eif) for image in built]
    same = "same bytes" if len(set(digests)) == 1 else "different bytes"
    report.expect("builder", "builds the image twice, in two folders", expected="same bytes", got=same, detail=f"sha256 {digests[0][:16]}…")


def _compare_lock(committed: Path, copy: Path, built: BuiltImage, report: Report) -> None:
    """The PCRs must equal the committed lock. Only a kernel of this machine's own choice may differ: then the copy is locked anew, and it is said."""
    lock = read_lock(committed)
    differences = explain(lock, built)
    own_kernel = built.sections["kernel"] != lock.sections["kernel"] or built.sections["cmdline"] != lock.sections["cmdline"]
    rest_agrees = all(built.sections[name] == lock.sections[name] for name in ("ramdisk0", "ramdisk1"))
    if not differences:
        got = "equal"
    elif own_kernel and rest_agrees:
        got = "equal but for this machine's kernel"
    else:
        got = "different"
    expected = got if got.startswith("equal") else "equal"
    report.expect("builder", "compares the PCRs with measurements.json", expected=expected, got=got, detail="; ".join(differences))
    if differences:
        record_measurements(copy, built)


def _tamper(folder: Path, work: Path, kernel: KernelBlobs, cache: Path, note: Callable[[str], None], source: str) -> BuiltImage:
    """Change one byte of the app (the last newline of its main file becomes a space) and build again."""
    target = next(path for path in sorted((folder / source).rglob("*.py")) if path.read_bytes().endswith(b"\n"))
    target.write_bytes(target.read_bytes()[:-1] + b" ")
    return build_image(folder, kernel=kernel, output=work / "tampered.eif", cache=cache, progress=note)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_image(folder: Path) -> None:
    """Refuse a folder that holds no image, before anything is started. Raises UsageError, ManifestError."""
    read_manifest(folder)
