"""A tree of Debian packages and wheels, as locked, without what is excluded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nitrokit.core.manifest import Packages
from nitrokit.image.cpio import folder, link
from nitrokit.image.errors import ImageError
from nitrokit.image.exclude import excluder, without_empty_folders
from nitrokit.image.fetch import fetch_pool_file, fetch_wheels
from nitrokit.image.lock import PackageLock
from nitrokit.image.scripts import add_scripts
from nitrokit.image.unpack import Tree, unpack_deb, unpack_wheel

SITE = "usr/lib/nitrokit-site"
LIBRARY = "usr/lib/nitrokit"
PYTHON_VERSIONS = {"bookworm": "3.11", "trixie": "3.13"}
ETC = {
    "passwd": b"root:x:0:0:root:/:/sbin/nologin\n",
    "group": b"root:x:0:\n",
    "nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
    "hostname": b"enclave\n",
}
"""What a root file system of packages has in /etc that packages make by scripts."""


def suite_python(suite: str) -> str:
    """The suite's Python. Raises ImageError."""
    version = PYTHON_VERSIONS.get(suite)
    if version is None:
        raise ImageError("suite", "no Python is known for this Debian suite", got=suite, expected=", ".join(PYTHON_VERSIONS))
    return version


def packages_tree(
    packages: Packages, lock: PackageLock, requirements: Path | None, *, arch: str, cache: Path, progress: Callable[[str], None]
) -> Tree:
    """Raises ImageError, FetchError."""
    version = suite_python(packages.suite)
    tree: Tree = {}
    for name, target in (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
        tree[target] = folder()
        tree[name] = link(target)
    excluded = excluder(packages.exclude)
    for package in lock.packages:
        progress(f"{package.name} {package.version}")
        unpack_deb(fetch_pool_file(package.path, package.sha256, cache=cache, progress=progress), tree, excluded)
    for wheel in [] if requirements is None else fetch_wheels(requirements, python=version, arch=arch, cache=cache):
        progress(wheel.name)
        unpack_wheel(wheel, tree, SITE)
    tree = {path: node for path, node in tree.items() if not excluded(path)}
    if f"usr/bin/python{version}" in tree:
        tree.setdefault("usr/bin/python3", link(f"python{version}"))
        add_scripts(tree, SITE, excluded)
    return without_empty_folders(tree)
