"""Bytecode for what an image imports, made by a locked Python of the image's version: compiling is most of an enclave's start.

The same on every machine: the interpreter is a locked one, whatever Python runs the build; names are the paths in the enclave; and marshal's version 2 knows
no references, whose presence in later versions depends on what else is in the compiler's memory. Bytecode is the same for both architectures.
"""

from __future__ import annotations

import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nitrokit.image.architecture import ARCHITECTURES, here
from nitrokit.image.cpio import file
from nitrokit.image.errors import ImageError
from nitrokit.image.files import scratch
from nitrokit.image.unpack import Tree

_MACHINE = ARCHITECTURES.get(here(), ARCHITECTURES["x86_64"])
_LIBRARIES = f"usr/lib/{_MACHINE.multiarch}"
_LOADER = f"{_LIBRARIES}/{_MACHINE.loader}"
_TIMEOUT = 600
# A module without source is taken whatever the twelve bytes behind the magic number say of its source (PEP 552, SourcelessFileLoader).
_COMPILE = """
import marshal, sys
from _frozen_importlib_external import MAGIC_NUMBER
def take():
    return sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "big"))
def give(data):
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
while name := take():
    source = take()
    try:
        code = compile(source, "/" + name.decode(), "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        give(b"")
    else:
        give(MAGIC_NUMBER + bytes(12) + marshal.dumps(code, 2))
"""


def compile_modules(tree: Tree, folders: tuple[str, ...], *, work: Path, interpreter: Tree | None = None) -> Tree:
    """The tree with each module below ``folders`` (``x.py``) in compiled form (``x.pyc``) instead; what is no Python source stays.

    ``interpreter``: a tree with the Python that compiles; None: the image's own. ``work``: for temporary files. Raises ImageError.
    """
    names = [path for path, node in sorted(tree.items()) if path.endswith(".py") and stat.S_ISREG(node.mode) and path.startswith(folders)]
    request = b"".join(_frame(name.encode()) + _frame(tree[name].data) for name in names) + _frame(b"")
    compiled = dict(zip(names, _frames(_run(interpreter or tree, request, work)), strict=True))
    result = {path: node for path, node in tree.items() if not compiled.get(path)}
    return result | {f"{path}c": file(code) for path, code in compiled.items() if code}


def _frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _run(tree: Tree, request: bytes, work: Path) -> bytes:
    """Run the compiler in the image's interpreter, from a folder with just what that needs: no container, no root."""
    with scratch(work) as root:
        for path, node in _interpreter(tree).items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(node)
            target.chmod(0o755)
        command = [
            str(root / _LOADER),
            "--library-path",
            str(root / _LIBRARIES),
            str(root / "usr/bin/python3"),
            "-S",
            "-s",
            "-B",
            "-c",
            _COMPILE,
        ]
        try:
            done = subprocess.run(
                command, input=request, capture_output=True, timeout=_TIMEOUT, check=False, cwd=root, env={"PYTHONHASHSEED": "0"}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _cannot_run(str(error)) from error
    if done.returncode:
        raise _cannot_run(done.stderr.decode(errors="replace").strip()[-400:] or f"exit code {done.returncode}")
    return done.stdout


def _interpreter(tree: Tree) -> dict[str, bytes]:
    """The interpreter, the loader, the shared libraries and the few modules that it imports by itself."""
    patterns = (f"{_LIBRARIES}/*.so*", "usr/lib/python3.*/os.py", "usr/lib/python3.*/encodings/*.py")
    needed = [path for path in tree if any(PurePosixPath(path).match(pattern) for pattern in patterns)]
    found = {path: content for path in ("usr/bin/python3", _LOADER, *needed) if (content := _content(tree, path)) is not None}
    if missing := {"usr/bin/python3", _LOADER} - set(found):
        raise ImageError(
            "no-python",
            "the image has no Python",
            got=f"no {min(missing)}",
            expected="a python3 package in packages.include of enclave.toml",
        )
    return found


def _content(tree: Tree, path: str) -> bytes | None:
    """A file's bytes, through links among its siblings; None where there is none."""
    for _ in range(8):
        node = tree.get(path)
        if node is None or stat.S_ISDIR(node.mode):
            return None
        if stat.S_ISREG(node.mode):
            return node.data
        path = f"{path.rpartition('/')[0]}/{node.data.decode()}"
    return None


def _cannot_run(got: str) -> ImageError:
    return ImageError(
        "python",
        "the image's own Python, which compiles its modules, does not run on this machine",
        got=got,
        expected=f"a Python for {here()}",
        do="build images of another architecture from bookworm, whose Python nitrokit has for both, or build on a machine of the image's own",
    )
