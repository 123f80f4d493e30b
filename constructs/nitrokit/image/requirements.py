"""The lock of an image's wheels: names, versions and SHA-256 hashes in a requirements file, and nothing else of what pip takes there.

Options, addresses, paths and conditions are refused: by ``--no-binary`` or a path pip would run a package's own code on the machine that builds, by ``--index-url`` it would
send environment variables away (pip expands ``${NAME}``), and conditions are about the Python that runs pip, not the image's (pip documentation, "Requirements File Format").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nitrokit.image.errors import LockError
from nitrokit.image.lock import read_text

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[\w., -]*\])?\s*==\s*([A-Za-z0-9.!+_-]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)")


@dataclass(frozen=True)
class Requirement:
    """One wheel: any file of this version with one of these hashes."""

    name: str
    version: str
    sha256s: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{one}" for one in self.sha256s)])


def read_requirements(path: Path) -> tuple[Requirement, ...]:
    """In the file's order. Raises LockError."""
    lines = re.sub(r"\\\n", " ", read_text(path)).splitlines()
    return tuple(_parse(text, path) for line in lines if (text := re.sub(r"(^|\s)#.*", "", line).strip()))


def _parse(text: str, path: Path) -> Requirement:
    found = _LINE.fullmatch(text)
    if found is None:
        raise LockError(
            "requirement",
            f"{path} holds something else than wheels by version and hash",
            got=text[:160],
            expected="name==version --hash=sha256:…, without options, addresses, paths or conditions",
            do="let `nitrokit lock` write it from the .in file; the index is the one that this machine's pip is set up for",
        )
    return Requirement(found[1], found[2], tuple(re.findall(r"[0-9a-f]{64}", found[3])))
