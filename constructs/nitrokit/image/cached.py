"""Builds kept by content: synthesis asks for the same image again and again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import nitrokit
from nitrokit.core.measurements import Measurements, MeasurementsError
from nitrokit.image.build import BuiltImage, build_image
from nitrokit.image.files import sha256_of, walk, write_atomically
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.signing import here

_PACKAGE = Path(nitrokit.__file__).parent


def build_cached(folder: Path, *, kernel: KernelBlobs | None, cache: Path, progress: Callable[[str], None]) -> tuple[BuiltImage, str]:
    """``build_image``, or its result from the cache when folder, kernel and nitrokit are the same; with the EIF's SHA-256 in hex. Raises what build_image raises."""
    target = cache / "images" / _key(folder, kernel)
    eif, record = target / f"{folder.resolve().name}.eif", target / "built.json"
    kept = _kept(eif, record)
    if kept is not None:
        return kept
    built = build_image(folder, kernel=kernel, output=eif, cache=cache, progress=progress, sign_with=here())
    with eif.open("rb") as file:
        os.fsync(file.fileno())  # before the record: after a power loss its stamp must not stand for other bytes
    stamp, digest = _stamp(eif), sha256_of(eif)
    value = {**json.loads(built.measurements.to_json()), "sections": built.sections, "eif": digest, "stamp": stamp}
    write_atomically(record, [json.dumps(value).encode()])
    return built, digest


def _kept(eif: Path, record: Path) -> tuple[BuiltImage, str] | None:
    """What was built before; None where it is not there, or not as it was."""
    try:
        value = json.loads(record.read_bytes())
        if value["stamp"] == _stamp(eif) or value["eif"] == sha256_of(eif):
            return BuiltImage(eif, Measurements.parse(json.dumps(value)), value["sections"]), value["eif"]
    except (OSError, ValueError, KeyError, TypeError, MeasurementsError):
        pass
    return None


def _stamp(path: Path) -> list[int]:
    """Of a file that nobody has written to, moved or replaced since: as Git's index has it, no large image is read at every synthesis. Nobody can set the time of the last change (inode(7))."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _key(folder: Path, kernel: KernelBlobs | None) -> str:
    """A hash over everything that the image is made of, the builder's own sources included."""
    digest = hashlib.sha256(kernel.cmdline.encode() if kernel else b"")
    blobs = (kernel.bzimage, kernel.nsm_module, kernel.init) if kernel else ()
    sources = [(path.name, path) for path in (*blobs, *sorted(_PACKAGE.glob("*.py"))) if path is not None]
    sources += [one for room in ("core", "runtime", "image") for one in walk(_PACKAGE / room) if one[1].suffix != ".pyc"]
    for name, path in [*sources, *walk(folder)]:
        if "__pycache__" not in name.split("/"):
            digest.update(f"{name}\0".encode(errors="surrogateescape") + _state(path))
    return digest.hexdigest()


def _state(path: Path) -> bytes:
    """What of a file may go into an image: the kind, the bits of the mode that count, a link's target, the content."""
    mode = path.lstat().st_mode
    head = b"%o\0" % (mode & (0o170000 | stat.S_IXUSR | stat.S_ISVTX))
    if stat.S_ISLNK(mode):
        return head + os.readlink(os.fsencode(path)) + b"\0"
    return head + (sha256_of(path).encode() if stat.S_ISREG(mode) else b"")
