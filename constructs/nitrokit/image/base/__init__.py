"""Ramdisk 0: kernel and this make PCR1, which is the same for every image of one version of nitrokit, kernel and architecture.

Init does not lean on anything of ramdisk 1: Python and what it needs are here, locked in this folder.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import nitrokit
from nitrokit.core.manifest import Packages, parse_packages
from nitrokit.image import cpio
from nitrokit.image.architecture import here
from nitrokit.image.bytecode import compile_modules
from nitrokit.image.cpio import file, link
from nitrokit.image.debian import ETC, LIBRARY, SITE, packages_tree, suite_python
from nitrokit.image.files import sha256_of, write_atomically
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.lock import read_package_lock
from nitrokit.image.unpack import Tree, add, add_mount_points

FOLDER = Path(__file__).parent
CLOSURE = (
    "__init__.py", "_version.py", "errors.py",
    "core/__init__.py", "core/boot.py", "core/cbor.py", "core/cms.py", "core/nsm/__init__.py", "core/nsm/interface.py", "core/nsm/messages.py",
    "runtime/__init__.py", "runtime/client.py", "runtime/clock.py", "runtime/control.py", "runtime/data_keys.py", "runtime/egress.py", "runtime/endpoint.py",
    "runtime/entropy.py", "runtime/frames.py", "runtime/ingress.py", "runtime/init.py", "runtime/kms.py", "runtime/logs.py", "runtime/mounts.py",
    "runtime/nsm_device.py", "runtime/operations.py", "runtime/platform.py", "runtime/privileges.py", "runtime/readiness.py", "runtime/refusals.py", "runtime/streams.py", "runtime/supervisor.py",
    "runtime/vsock.py",
)  # fmt: skip
"""What of nitrokit PID 1 is: an edit of anything else never moves PCR1. A test compares it with what init imports."""

_INIT = b"#!/usr/bin/python3 -ISB\nimport sys\nsys.path[:0] = ['/usr/lib/nitrokit', '/usr/lib/nitrokit-site']\nfrom nitrokit.runtime.init import main\nmain()\n"


@functools.cache
def base_packages() -> Packages:
    """What base.toml says."""
    return parse_packages((FOLDER / "base.toml").read_text(encoding="utf-8"), path=str(FOLDER / "base.toml"))


def lock_path(arch: str) -> Path:
    return FOLDER / f"packages.{arch}.lock.json"


def requirements_path(arch: str) -> Path:
    return FOLDER / f"requirements.{arch}.txt"


def bootstrap_ramdisk(kernel: KernelBlobs, arch: str, *, cache: Path, progress: Callable[[str], None]) -> Path:
    """Ramdisk 0 as a file, made once and kept by content. Raises ImageError, LockError, FetchError."""
    path = cache / "bootstrap" / f"{_key(kernel, arch)}.cpio"
    stamp = path.with_suffix(".sha256")
    if not (path.is_file() and stamp.is_file() and stamp.read_text() == sha256_of(path)):  # a torn one would be measured, and locked
        write_atomically(path, cpio.chunks(bootstrap_tree(kernel, arch, cache=cache, progress=progress)))
        write_atomically(stamp, [sha256_of(path).encode()])
    return path


def bootstrap_tree(kernel: KernelBlobs, arch: str, *, cache: Path, progress: Callable[[str], None]) -> Tree:
    """Python, its libraries, and nitrokit's closure, all compiled."""
    tree = python_tree(arch, cache=cache, progress=progress)
    package = Path(nitrokit.__file__).parent
    for name in CLOSURE:
        add(tree, f"{LIBRARY}/nitrokit/{name}", file((package / name).read_bytes()))
    tree = compile_modules(tree, _folders(), work=cache, interpreter=interpreter(cache=cache, progress=progress))
    add_mount_points(tree)
    for name, content in ETC.items():
        add(tree, f"etc/{name}", file(content))
    tree["etc/hosts"] = link("/run/hosts")
    tree["init"] = file(_INIT, 0o755)
    if kernel.nsm_module is not None:
        tree["nsm.ko"] = file(kernel.nsm_module.read_bytes())
    return tree


def python_tree(arch: str, *, cache: Path, progress: Callable[[str], None]) -> Tree:
    """The locked Python and wheels for an architecture, as their packages have them."""
    return packages_tree(
        base_packages(), read_package_lock(lock_path(arch)), requirements_path(arch), arch=arch, cache=cache, progress=progress
    )


def python_version() -> str:
    return suite_python(base_packages().suite)


def interpreter(*, cache: Path, progress: Callable[[str], None]) -> Tree:
    """A Python that runs on this machine, whatever the image is for: it compiles the modules. The same version for all, hence the same bytes."""
    return python_tree(here(), cache=cache, progress=progress)


def _folders() -> tuple[str, ...]:
    return (f"usr/lib/python{python_version()}/", "usr/lib/python3/", f"{SITE}/", f"{LIBRARY}/")


def _key(kernel: KernelBlobs, arch: str) -> str:
    """A hash over all that ramdisk 0 is made of, the builder's own sources included."""
    package = Path(nitrokit.__file__).parent
    digest = hashlib.sha256(arch.encode())
    sources = [
        *(package / name for name in CLOSURE),
        *sorted((package / "image").glob("*.py")),
        FOLDER / "__init__.py",
        FOLDER / "base.toml",
    ]
    for path in [*sources, lock_path(arch), requirements_path(arch), *([kernel.nsm_module] if kernel.nsm_module else [])]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
