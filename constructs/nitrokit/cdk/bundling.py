"""Lambda assets without Docker: what each function needs of the hashed wheels for its platform, its measured closure of nitrokit, its shim; cached by content."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

import nitrokit
from nitrokit.cdk.closures import CLOSURES
from nitrokit.errors import EnvironmentProblem, UsageError
from nitrokit.image.fetch import cache_dir

_PLATFORMS = {"x86_64": ("manylinux_2_28_x86_64", "manylinux2014_x86_64"), "arm64": ("manylinux_2_28_aarch64", "manylinux2014_aarch64")}
_UNIX = 3  # in ZIP's "version made by"


class BundlingError(EnvironmentProblem):
    """A Lambda's dependencies cannot be had."""

    area = "bundling"


def lambda_folder(name: str) -> Path:
    """The shim's folder, beside the lock of all: in the installed package, or beside the source root. Raises BundlingError."""
    package = Path(nitrokit.__file__).parent
    for folder in (package / "_lambda" / name, package.parents[1] / "lambda" / name):
        if (folder / "index.py").is_file():
            return folder
    raise BundlingError("no-shim", f"the function {name} is not in this installation", do="install nitrokit again")


def bundle(name: str, *, python: str, architecture: str) -> Path:
    """The asset of a function of CLOSURES, as a zip file: the CDK copies one file, where a folder costs it each file of hundreds.

    ``python``: e.g. "3.13"; ``architecture``: x86_64 or arm64. Raises BundlingError, UsageError for a runtime that nitrokit does not run on.
    """
    if not re.fullmatch(r"3\.(1[1-9]|[2-9]\d)", python):
        raise UsageError(
            "lambda-runtime",
            "the function needs another runtime",
            got=python,
            expected="Python 3.11 or newer, e.g. python3.13",
            do="correct nitrokit:lambdaRuntime",
        )
    folder, package, closure = lambda_folder(name), Path(nitrokit.__file__).parent, CLOSURES[name]
    shim, lock = folder / "index.py", folder.parent / "requirements.txt"
    digest = _digest(
        f"{python} {architecture} {' '.join(closure.distributions)}", [shim, lock, *(package / module for module in closure.modules)]
    )
    wheels = _wheels(lock, python, architecture)

    def fill(target: Path) -> None:
        contents = {f"nitrokit/{module}": package / module for module in closure.modules} | {"index.py": shim}
        for distribution in closure.distributions:
            contents |= _distribution_files(wheels, distribution)
        _zip(contents, target)

    return _cached(f"{name}-{digest}.zip", fill)


def _wheels(lock: Path, python: str, architecture: str) -> Path:
    """All that the lock holds, installed once for all functions."""
    return _cached(f"wheels-{_digest(f'{python} {architecture}', [lock])}", lambda target: _install(lock, target, python, architecture))


def _digest(text: str, files: list[Path]) -> str:
    digest = hashlib.sha256(text.encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    """A file or folder of the cache, made once and moved into its place whole."""
    target = cache_dir(os.environ) / "lambda" / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as folder:
        work = Path(folder) / "asset"
        fill(work)
        try:
            os.replace(work, target)
        except OSError:  # another process was faster: the content is the same
            if not target.exists():
                raise
    return target


def _distribution_files(wheels: Path, name: str) -> dict[str, Path]:
    """What a distribution runs with, by its place in the asset; its metadata, type stubs and programs stay out."""
    (distribution,) = Distribution.discover(name=name, path=[str(wheels)])
    paths = map(PurePosixPath, distribution.files or ())
    return {
        str(path): wheels / path
        for path in paths
        if not path.parts[0].endswith(".dist-info") and path.parts[0] != ".." and path.suffix != ".pyi" and path.name != "py.typed"
    }


def _zip(contents: Mapping[str, Path], target: Path) -> None:
    """The same contents give the same bytes: order, times and modes are fixed. Readable for all, as Lambda's user is another (Lambda Developer Guide "Working with .zip file archives")."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(contents.items()):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr, entry.compress_type = _UNIX, 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())


def _install(requirements: Path, target: Path, python: str, architecture: str) -> None:
    platforms = [word for platform in _PLATFORMS[architecture] for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation", "cp",
        "--python-version", python, *platforms, "--target", str(target), "--requirement", str(requirements),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundlingError(
            "wheels",
            "pip could not install a Lambda's wheels",
            got=done.stderr.strip()[-800:],
            expected="every pinned wheel",
            do="check the network, and that the Python version has wheels",
        )
