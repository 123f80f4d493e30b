"""Debian packages, wheels and the app's folder: an image without Docker."""

from __future__ import annotations

import functools
from pathlib import Path

import nitrokit
from nitrokit.core.manifest import App, Packages
from nitrokit.image import base
from nitrokit.image.bytecode import compile_modules
from nitrokit.image.cpio import file
from nitrokit.image.debian import ETC, LIBRARY, SITE, packages_tree, suite_python
from nitrokit.image.errors import LockError
from nitrokit.image.lock import PACKAGES, read_package_lock
from nitrokit.image.sources import ImageConfig, SourceImage, Workshop
from nitrokit.image.unpack import Tree, add

APP_CLOSURE = (
    "__init__.py",
    "_version.py",
    "errors.py",
    "runtime/__init__.py",
    "runtime/client.py",
    "runtime/frames.py",
    "runtime/vsock.py",
)
"""What of nitrokit a Python app imports: clients of the endpoint that init keeps. A test compares it with what they import."""

_ETC = {
    **ETC,
    "passwd": ETC["passwd"] + b"nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "group": ETC["group"] + b"nogroup:x:65534:\n",
}
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
_PYTHON_ENVIRONMENT = {"PYTHONPATH": f"/{LIBRARY}:/{SITE}", "PYTHONDONTWRITEBYTECODE": "1"}


def read_packages(source: Packages, app: App, shop: Workshop) -> SourceImage:
    """Raises ImageError, LockError, FetchError."""
    lock = read_package_lock(shop.folder / PACKAGES)
    if lock.arch != shop.arch:
        raise LockError(
            "arch", f"{PACKAGES} is of another architecture", got=lock.arch, expected=shop.arch, do=f"run `nitrokit lock {shop.folder}`"
        )
    requirements = None if source.requirements is None else shop.folder / source.requirements
    tree = packages_tree(source, lock, requirements, arch=shop.arch, cache=shop.cache, progress=shop.progress)
    version = suite_python(source.suite)
    environment = _ENVIRONMENT
    if f"usr/bin/python{version}" in tree:
        tree = _with_nitrokit(tree, version, shop)
        environment = {**_ENVIRONMENT, **_PYTHON_ENVIRONMENT}
    for name, content in _ETC.items():
        add(tree, f"etc/{name}", file(content))
    return SourceImage(tree, ImageConfig(environment=environment))


def _with_nitrokit(tree: Tree, version: str, shop: Workshop) -> Tree:
    """The app's API, and all modules compiled, by nitrokit's own Python where that is of the same version: it runs on this machine, whatever the image is for."""
    package = Path(nitrokit.__file__).parent
    for name in APP_CLOSURE:
        add(tree, f"{LIBRARY}/nitrokit/{name}", file((package / name).read_bytes()))
    shop.progress("compiling modules")
    make = functools.partial(base.interpreter, cache=shop.cache, progress=lambda _: None)
    interpreter = make() if version == base.python_version() else None
    folders = (f"usr/lib/python{version}/", "usr/lib/python3/", f"{SITE}/", f"{LIBRARY}/")
    return compile_modules(tree, folders, work=shop.cache, interpreter=interpreter)
