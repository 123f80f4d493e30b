"""Programs in a tree: where a command leads, and whether the kernel could start what is there."""

from __future__ import annotations

import posixpath
import stat
import struct
from collections.abc import Mapping

from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.cpio import Node
from nitrokit.image.errors import ImageError
from nitrokit.image.unpack import Tree, resolve_parent

_MAX_LINKS = 40
_PT_INTERP = 3
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_command(tree: Tree, command: str, directory: str, environment: Mapping[str, str]) -> str:
    """The absolute path of a command: by PATH where it has no slash, else from the working directory, as execvp does. Raises ImageError."""
    if "/" in command:
        candidates = [posixpath.normpath(posixpath.join(directory, command))]
    else:
        candidates = [
            posixpath.join(folder, command) for folder in environment.get("PATH", DEFAULT_PATH).split(":") if folder.startswith("/")
        ]
    for path in candidates:
        node = look_up(tree, path)
        if node is not None and stat.S_ISREG(node.mode) and node.mode & 0o111:
            return path
    raise ImageError(
        "command", "the image does not have the program that it is to run", got=command,
        expected="an executable file at " + " or ".join(candidates[:8]), do="correct command in [app], ENTRYPOINT or CMD; check that no exclude takes it out",
    )  # fmt: skip


def look_up(tree: Tree, path: str) -> Node | None:
    """The node at an absolute path, through links; None where there is none."""
    for _ in range(_MAX_LINKS):
        try:
            relative = resolve_parent(tree, posixpath.normpath(path).lstrip("/"))
        except ImageError:
            return None
        node = tree.get(relative)
        if node is None or not stat.S_ISLNK(node.mode):
            return node
        path = posixpath.join("/", posixpath.dirname(relative), node.data.decode(errors="surrogateescape"))
    return None


def require_runnable(tree: Tree, path: str, arch: str, *, depth: int = 0) -> None:
    """The program's interpreter, and its interpreter's loader, must be in the image and of its architecture (drawback: "not found", of which the kernel says no more). Raises ImageError."""
    node = look_up(tree, path)
    if node is None or not stat.S_ISREG(node.mode):
        raise ImageError(
            "missing-interpreter", "a program needs another that the image does not have", got=path, do="add the package that has it"
        )
    head = next(node.chunks(), b"")
    if head[:2] == b"#!" and depth < 4:
        words = head[2:].split(b"\n")[0].split()
        if not words:
            raise ImageError("missing-interpreter", "a script names no interpreter", got=path)
        _require(tree, words[0].decode(errors="replace"), path, arch, depth)
    elif head[:4] == b"\x7fELF":
        _check_machine(head, path, arch)
        loader = _interpreter(head)
        if loader:
            _require(tree, loader, path, arch, depth)


def _require(tree: Tree, interpreter: str, path: str, arch: str, depth: int) -> None:
    if look_up(tree, interpreter) is None:
        raise ImageError(
            "missing-interpreter", "a program needs another that the image does not have: the kernel would only say \"not found\"",
            got=f"{path} needs {interpreter}", expected="a loader or interpreter in the image",
            do="add the package that has it, or link the program statically",
        )  # fmt: skip
    require_runnable(tree, interpreter, arch, depth=depth + 1)


def _check_machine(head: bytes, path: str, arch: str) -> None:
    machine = struct.unpack_from("<H", head, 18)[0] if len(head) >= 20 else 0
    if machine != ARCHITECTURES[arch].machine or head[4:6] != b"\x02\x01":
        raise ImageError(
            "architecture", "a program is of another architecture than the image", got=f"{path}: ELF machine {machine}",
            expected=f"{arch} (ELF machine {ARCHITECTURES[arch].machine}, 64 bit)", do="correct arch in [enclave], or build for it",
        )  # fmt: skip


def _interpreter(head: bytes) -> str | None:
    """The loader that an ELF file names (System V ABI, PT_INTERP); None for a static one."""
    try:
        offset, (size, count) = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<HH", head, 54)
        for index in range(count):
            kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", head, offset + index * size)
            if kind == _PT_INTERP:
                return head[start : start + length].rstrip(b"\0").decode(errors="replace")
    except struct.error:
        return None
    return None
