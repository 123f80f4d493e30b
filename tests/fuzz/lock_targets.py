"""The locks of an image folder, which come with a pull request: what is accepted leads nowhere but into the cache and to files of the pool, and pip is given nothing else than what was read."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from nitrokit.image.lock import read_lock, read_package_lock
from nitrokit.image.requirements import read_requirements


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="nitrokit-fuzz-"))


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


def _requirements(data: bytes) -> None:
    found = read_requirements(_file("requirements.txt", data))
    canonical = "".join(f"{one}\n" for one in found)
    assert not re.search(r"[^A-Za-z0-9._+!=:\n -]|^-|\n-", canonical)
    assert read_requirements(_file("requirements.txt", canonical.encode())) == found


def _packages(data: bytes) -> None:
    for package in read_package_lock(_file("packages.lock.json", data)).packages:
        target = Path("/cache/sha256") / package.sha256
        assert target.parent == Path("/cache/sha256") and len(package.sha256) == 64
        assert not package.path.startswith("/") and ".." not in package.path.split("/")


def _sections(data: bytes) -> None:
    """image.lock.json, beside measurements that are well."""
    _file("measurements.json", json.dumps({"Measurements": {f"PCR{index}": f"{index + 1}" * 96 for index in range(3)}}).encode())
    _file("image.lock.json", data)
    read_lock(_folder())


TARGETS: dict[str, Callable[[bytes], None]] = {"requirements": _requirements, "package_lock": _packages, "image_lock": _sections}
_PIN = "0" * 64
_PACKAGE = {"name": "x", "version": "1-2+b", "path": "pool/main/x/x_1%3a2~b_amd64.deb", "sha256": _PIN}
MADE: dict[str, Callable[[], list[bytes] | list[str]]] = {
    "requirements": lambda: [
        f"# by a tool\ncbor2==6.3.0 \\\n    --hash=sha256:{_PIN} \\\n    --hash=sha256:{_PIN}\n    # via x\nb[c]==1!2.0+d --hash=sha256:{_PIN}\n"
    ],
    "package_lock": lambda: [json.dumps({"suite": "bookworm", "arch": "x86_64", "packages": [_PACKAGE]})],
    "image_lock": lambda: [json.dumps({"sections": {"kernel": _PIN}})],
}
