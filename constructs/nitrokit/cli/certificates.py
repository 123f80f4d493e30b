"""The signing certificates of a folder's images: when one ends, its image starts no more (nitro-cli refuses it, E59), and a new one changes PCR8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nitrokit.cli.finding import Finding
from nitrokit.errors import NitrokitError

_FOREIGN = {"node_modules", "cdk.out", "__pycache__"}


def certificate_findings(folder: Path, *, time: datetime) -> Iterator[Finding]:
    """One for each image at or below ``folder`` that has [signing]: at ``time`` valid, "wrong" (exit 1), or "soon" to end."""
    for image in _images(folder):
        try:
            finding = _finding(image, time)
        except NitrokitError as error:
            finding = Finding(f"image {image}", "wrong", str(error))
        if finding is not None:
            yield finding


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _FOREIGN)
        if "enclave.toml" in files:
            yield Path(parent)


def _finding(image: Path, time: datetime) -> Finding | None:
    from nitrokit.image.build import read_manifest
    from nitrokit.image.signing import SOON, read_certificate, validity

    signing = read_manifest(image).signing
    if signing is None:
        return None
    name = f"signing certificate of {image}"
    start, end = validity(read_certificate(image, signing))
    found = f"valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
    renew = "renew it; PCR8 changes with it: run `nitrokit lock --measurements-only`, and have the new lock reviewed"
    if not start <= time <= end:
        return Finding(name, "wrong", f"{found}: not valid now; nitro-cli refuses to start the image", renew)
    if end - time <= SOON:
        return Finding(name, "soon", f"{found}: ends within {SOON.days} days", renew)
    return Finding(name, "ok", found)
