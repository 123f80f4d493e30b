"""Paths that stay out of an image (``exclude`` in enclave.toml), and the folders that would be left empty by it."""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Callable

from nitrokit.image.unpack import Tree


def excluder(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a path, or a folder above it, matches a pattern."""
    if not patterns:
        return lambda _: False
    matches = re.compile("|".join(fnmatch.translate(form) for pattern in patterns for form in (pattern, f"{pattern}/*"))).match
    return lambda path: matches(path) is not None


def without_excluded(tree: Tree, excluded: Callable[[str], bool]) -> Tree:
    """The tree without what is excluded, and without folders that held nothing else; folders that were empty before are somebody's intention."""
    kept = {path: node for path, node in tree.items() if not excluded(path)}
    emptied = {parent for path in tree.keys() - kept.keys() for parent in parents(path)}
    used = {parent for path, node in kept.items() if path not in emptied or not stat.S_ISDIR(node.mode) for parent in parents(path)}
    return {path: node for path, node in kept.items() if path in used or path not in emptied or not stat.S_ISDIR(node.mode)}


def without_empty_folders(tree: Tree) -> Tree:
    """Folders that packages created for files which are excluded would only be noise."""
    used = {parent for path, node in tree.items() if not stat.S_ISDIR(node.mode) for parent in parents(path)}
    return {path: node for path, node in tree.items() if not stat.S_ISDIR(node.mode) or path in used}


def parents(path: str) -> list[str]:
    """The folders above a path, outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
