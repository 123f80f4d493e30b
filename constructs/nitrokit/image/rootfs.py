"""The two trees of an image: ramdisk 0 (init and the measured closure of nitrokit) and ramdisk 1 (Python, wheels, the app)."""

from __future__ import annotations

import fnmatch
import stat
from collections.abc import Callable
from pathlib import Path

import nitrokit
from nitrokit.core.manifest import Manifest
from nitrokit.image.bytecode import compile_modules
from nitrokit.image.cpio import Node, file, folder, link
from nitrokit.image.errors import ImageError
from nitrokit.image.fetch import fetch_pool_file, fetch_wheels
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.lock import PackageLock
from nitrokit.image.unpack import Tree, add, unpack_deb, unpack_wheel

SITE = "usr/lib/nitrokit-site"
LIBRARY = "usr/lib/nitrokit"
PYTHON_VERSIONS = {"bookworm": "3.11", "trixie": "3.13"}
CLOSURE = (
    "__init__.py", "_version.py", "errors.py",
    "core/__init__.py", "core/cbor.py", "core/cms.py", "core/manifest.py", "core/nsm/__init__.py", "core/nsm/interface.py", "core/nsm/messages.py",
    "runtime/__init__.py", "runtime/clock.py", "runtime/control.py", "runtime/egress.py", "runtime/entropy.py", "runtime/frames.py", "runtime/init.py",
    "runtime/kms.py", "runtime/logs.py", "runtime/mounts.py",
    "runtime/nsm_device.py", "runtime/platform.py", "runtime/supervisor.py", "runtime/vsock.py",
)  # fmt: skip
"""What of nitrokit goes into an enclave: an edit of anything else never moves a PCR. A test compares it with what the runtime imports."""

_INIT = b"#!/usr/bin/python3\nimport sys\nsys.path[:0] = ['/usr/lib/nitrokit', '/usr/lib/nitrokit-site']\nfrom nitrokit.runtime.init import main\nmain()\n"
_ETC = {
    "passwd": b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "group": b"root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    "hostname": b"enclave\n",
}


def bootstrap_tree(kernel: KernelBlobs) -> Tree:
    """Ramdisk 0: the same for every image of one version of nitrokit and one kernel."""
    package = Path(nitrokit.__file__).parent
    tree: Tree = {"init": file(_INIT, 0o755)}
    for name in CLOSURE:
        add(tree, f"{LIBRARY}/nitrokit/{name}", file((package / name).read_bytes()))
    if kernel.nsm_module is not None:
        tree["nsm.ko"] = file(kernel.nsm_module.read_bytes())
    return tree


def application_tree(folder_path: Path, manifest: Manifest, lock: PackageLock, cache: Path, progress: Callable[[str], None]) -> Tree:
    """Ramdisk 1, as enclave.toml and its locks have it. Raises ImageError, FetchError."""
    version = PYTHON_VERSIONS.get(manifest.packages.suite)
    if version is None:
        raise ImageError(
            "suite", "no Python is known for this Debian suite", got=manifest.packages.suite, expected=", ".join(PYTHON_VERSIONS)
        )
    tree = _packages_tree(folder_path, manifest, lock, version, cache, progress)
    _add_app(folder_path, manifest, tree)
    for name in ("dev", "proc", "sys", "run", "tmp"):
        tree[name] = folder(0o1777 if name == "tmp" else 0o755)
    for name, content in _ETC.items():
        add(tree, f"etc/{name}", file(content))
    # /etc/hosts gets an entry for each allowed destination at boot; it lies on tmpfs so that the measured tree stays as it is.
    tree["etc/hosts"] = link("/run/hosts")
    add(tree, "etc/nitrokit/enclave.toml", file((folder_path / "enclave.toml").read_bytes()))
    tree = _without_empty_folders(tree)
    _refuse_bootstrap_paths(tree)
    return tree


def _packages_tree(
    folder_path: Path, manifest: Manifest, lock: PackageLock, version: str, cache: Path, progress: Callable[[str], None]
) -> Tree:
    """Debian packages and wheels without what enclave.toml excludes, their modules compiled."""
    tree: Tree = {}
    for name, target in (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
        tree[target] = folder()
        tree[name] = link(target)

    def excluded(path: str) -> bool:
        return _excluded(path, manifest.packages.exclude)

    for package in lock.packages:
        progress(f"{package.name} {package.version}")
        unpack_deb(fetch_pool_file(package.path, package.sha256, cache=cache, progress=progress), tree, excluded)
    for wheel in fetch_wheels(folder_path / manifest.packages.requirements, python=version, arch=manifest.arch, cache=cache):
        progress(wheel.name)
        unpack_wheel(wheel, tree, SITE)
    tree = {path: node for path, node in tree.items() if not excluded(path)}
    tree.setdefault("usr/bin/python3", link(f"python{version}"))
    progress("compiling modules")
    return compile_modules(tree, (f"usr/lib/python{version}/", "usr/lib/python3/", f"{SITE}/"), work=cache)


def _refuse_bootstrap_paths(tree: Tree) -> None:
    """Ramdisk 1 is unpacked over ramdisk 0: what it put there would run under the name of PCR1, which vouches for init and the runtime. Raises ImageError."""
    for path in tree:
        if path in ("init", "nsm.ko", LIBRARY) or path.startswith(f"{LIBRARY}/"):
            raise ImageError(
                "bootstrap",
                "a package or the app would replace nitrokit's own runtime",
                got=path,
                expected=f"nothing at init, nsm.ko or below {LIBRARY}",
                do="choose another working_directory, or exclude the path in enclave.toml",
            )


def _excluded(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*") for pattern in patterns)


def _without_empty_folders(tree: Tree) -> Tree:
    """Folders that packages created for files which are excluded would only be noise; those the runtime mounts on stay."""
    used = {parent for path, node in tree.items() if not stat.S_ISDIR(node.mode) for parent in _parents(path)}
    keep = {"dev", "proc", "sys", "run", "tmp"}
    return {path: node for path, node in tree.items() if not stat.S_ISDIR(node.mode) or path in used or path in keep}


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _add_app(folder_path: Path, manifest: Manifest, tree: Tree) -> None:
    """Copy the app; owners, times and all modes but the executable bit come from here, not from the file system."""
    source = folder_path / manifest.app.source
    if not source.is_dir():
        raise ImageError(
            "no-app", "the app's folder is missing", got=str(source), expected="the folder named by app.source in enclave.toml"
        )
    base = manifest.app.working_directory.strip("/")
    if base:
        add(tree, base, folder())
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if "__pycache__" not in relative.parts:
            add(tree, f"{base}/{relative.as_posix()}".lstrip("/"), _app_node(path))


def _app_node(path: Path) -> Node:
    if path.is_symlink():
        raise ImageError(
            "app-link",
            "the app's folder has a symbolic link",
            got=str(path),
            do="copy the file itself: what lies behind a link is not pinned",
        )
    if path.is_dir():
        return folder()
    if not path.is_file():
        raise ImageError("device-node", "the app's folder has something that is neither file nor folder", got=str(path))
    return file(path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
