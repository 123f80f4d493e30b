"""Builds kept by content: synthesis asks for the same image again and again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import nitrokit
from nitrokit.core.measurements import Measurements
from nitrokit.image.build import BuiltImage, build_image
from nitrokit.image.files import write_atomically
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.signing import here

_PACKAGE = Path(nitrokit.__file__).parent


def build_cached(folder: Path, *, kernel: KernelBlobs | None, cache: Path, progress: Callable[[str], None]) -> BuiltImage:
    """``build_image``, or its result from the cache when folder, kernel and nitrokit are the same. Raises what build_image raises."""
    target = cache / "images" / _key(folder, kernel)
    eif, record = target / f"{folder.name}.eif", target / "built.json"
    if eif.is_file() and record.is_file():
        value = json.loads(record.read_text())
        return BuiltImage(eif, Measurements.parse(json.dumps(value)), value["sections"])
    built = build_image(folder, kernel=kernel, output=eif, cache=cache, progress=progress, sign_with=here())
    write_atomically(record, [json.dumps({**json.loads(built.measurements.to_json()), "sections": built.sections}).encode()])
    return built


def _key(folder: Path, kernel: KernelBlobs | None) -> str:
    """A hash over everything that the image is made of, the builder's own sources included."""
    digest = hashlib.sha256(kernel.cmdline.encode() if kernel else b"")
    blobs = (kernel.bzimage, kernel.nsm_module, kernel.init) if kernel else ()
    sources = [
        *(blob for blob in blobs if blob is not None),
        *sorted(
            path
            for name in ("core", "runtime", "image")
            for path in (_PACKAGE / name).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        ),
    ]
    for path in [*sources, *sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)]:
        name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
        mode = path.stat().st_mode & 0o100
        digest.update(f"{name}\0{mode}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
