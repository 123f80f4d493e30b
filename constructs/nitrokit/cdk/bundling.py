"""Lambda assets without Docker: what each function needs of the hashed wheels for its platform, its measured closure of nitrokit, its shim; cached by content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

import nitrokit
from nitrokit.cdk.closures import CLOSURES
from nitrokit.errors import EnvironmentProblem, UsageError
from nitrokit.image.fetch import cache_dir

_PLATFORMS = {"x86_64": ("manylinux_2_28_x86_64", "manylinux2014_x86_64"), "arm64": ("manylinux_2_28_aarch64", "manylinux2014_aarch64")}


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
    """The asset's folder for a function of CLOSURES; ``python``: e.g. "3.13"; ``architecture``: x86_64 or arm64. Raises BundlingError, UsageError for a runtime that is not Python 3."""
    if not re.fullmatch(r"3\.\d+", python):
        raise UsageError(
            "lambda-runtime",
            "the function needs a Python runtime",
            got=python,
            expected="e.g. python3.13",
            do="correct nitrokit:lambdaRuntime",
        )
    folder, package, closure = lambda_folder(name), Path(nitrokit.__file__).parent, CLOSURES[name]
    shim, lock = folder / "index.py", folder.parent / "requirements.txt"
    digest = _digest(
        f"{python} {architecture} {' '.join(closure.distributions)}", [shim, lock, *(package / module for module in closure.modules)]
    )
    wheels = _wheels(lock, python, architecture)

    def fill(work: Path) -> None:
        for distribution in closure.distributions:
            _copy_distribution(wheels, distribution, work)
        for module in closure.modules:
            (work / "nitrokit" / module).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / module, work / "nitrokit" / module)
        shutil.copyfile(shim, work / "index.py")

    return _cached(f"{name}-{digest}", fill)


def _wheels(lock: Path, python: str, architecture: str) -> Path:
    """All that the lock holds, installed once for all functions."""
    return _cached(f"wheels-{_digest(f'{python} {architecture}', [lock])}", lambda work: _install(lock, work, python, architecture))


def _digest(text: str, files: list[Path]) -> str:
    digest = hashlib.sha256(text.encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled once and moved into its place whole."""
    target = cache_dir(os.environ) / "lambda" / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as folder:
        work = Path(folder) / "asset"
        work.mkdir()
        fill(work)
        try:
            os.replace(work, target)
        except OSError:  # another process was faster: the content is the same
            if not target.is_dir():
                raise
    return target


def _copy_distribution(wheels: Path, name: str, work: Path) -> None:
    """What a distribution runs with; its metadata, type stubs and programs stay out."""
    (distribution,) = Distribution.discover(name=name, path=[str(wheels)])
    for file in distribution.files or ():
        path = PurePosixPath(file)
        if not path.parts[0].endswith(".dist-info") and path.parts[0] != ".." and path.suffix != ".pyi" and path.name != "py.typed":
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(wheels / path, work / path)


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
