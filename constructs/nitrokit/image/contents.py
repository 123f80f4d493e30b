"""What a root file system says is installed in it: the databases of dpkg and apk, and Python's metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nitrokit.image.unpack import Tree

_DPKG = re.compile(r"^Package: (\S+)$.*?^Version: (\S+)$", re.MULTILINE | re.DOTALL)
_APK = re.compile(r"^P:(\S+)$.*?^V:(\S+)$", re.MULTILINE | re.DOTALL)
_WHEEL = re.compile(r"^Name: (\S+)$.*?^Version: (\S+)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, order=True)
class Installed:
    """``kind``: a package URL's type (deb, apk, pypi). ``sha256``: of the package's file, where it is known."""

    kind: str
    name: str
    version: str
    sha256: str | None = None


def installed(tree: Tree) -> list[Installed]:
    """Sorted; what no database names (a binary that was copied in) is not found."""
    return sorted(set(_find(tree)), key=lambda one: (one.kind, one.name, one.version))


def _find(tree: Tree) -> Iterator[Installed]:
    for path, node in tree.items():
        if path == "var/lib/dpkg/status" or (path.startswith("var/lib/dpkg/status.d/") and not path.endswith(".md5sums")):
            yield from _all("deb", _DPKG, node.data, re.compile(r"^Status: .* installed$", re.MULTILINE))
        elif path == "lib/apk/db/installed":
            yield from _all("apk", _APK, node.data, None)
        elif path.endswith(".dist-info/METADATA"):
            yield from list(_all("pypi", _WHEEL, node.data, None))[:1]


def _all(kind: str, pattern: re.Pattern[str], data: bytes, required: re.Pattern[str] | None) -> Iterator[Installed]:
    for stanza in re.split(r"\n\n+", data.decode(errors="replace")):
        found = pattern.search(stanza)
        if found and (required is None or "Status:" not in stanza or required.search(stanza)):
            yield Installed(kind, found[1].lower() if kind == "pypi" else found[1], found[2])
