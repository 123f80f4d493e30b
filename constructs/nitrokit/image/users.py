"""Users of an image, by its own /etc/passwd and /etc/group, as Docker reads them (Docker reference, USER)."""

from __future__ import annotations

from dataclasses import dataclass

from nitrokit.image.errors import ImageError
from nitrokit.image.unpack import Tree

_MAX_ID = 1 << 31


@dataclass(frozen=True)
class User:
    """Who the app runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def find_user(tree: Tree, text: str) -> User:
    """``name``, ``uid``, ``name:group`` or ``uid:gid``; empty: root. Raises ImageError for a name that the image does not have."""
    name, _, group = (text or "0").partition(":")
    entry = next((one for one in _entries(tree, "etc/passwd", 7) if name in (one[0], one[2])), None)
    if entry is None and not _is_id(name):
        raise ImageError(
            "user",
            "the image has no such user",
            got=name,
            expected="a name in its /etc/passwd, or a number",
            do="correct user in [app], or USER",
        )
    uid, gid, home = (int(entry[2]), int(entry[3]), entry[5]) if entry else (int(name), 0, "/")
    groups = tuple(sorted({int(one[2]) for one in _entries(tree, "etc/group", 4) if entry and entry[0] in one[3].split(",")}))
    if group:
        gid, groups = _group(tree, group), ()
    return User(uid, gid, groups, home or "/")


def _group(tree: Tree, name: str) -> int:
    found = next((int(one[2]) for one in _entries(tree, "etc/group", 4) if name in (one[0], one[2])), None)
    if found is None and not _is_id(name):
        raise ImageError("user", "the image has no such group", got=name, expected="a name in its /etc/group, or a number")
    return int(name) if found is None else found


def _entries(tree: Tree, path: str, fields: int) -> list[list[str]]:
    node = tree.get(path)
    lines = [] if node is None else node.data.decode(errors="replace").splitlines()
    entries = [line.split(":") for line in lines]
    return [one for one in entries if len(one) == fields and _is_id(one[2]) and (fields == 4 or _is_id(one[3]))]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) < _MAX_ID
