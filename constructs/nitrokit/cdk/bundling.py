"""Lambda assets without Docker: hashed wheels for the function's platform, the measured closure of nitrokit, the shim; cached by content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nitrokit
from nitrokit.errors import EnvironmentProblem, UsageError
from nitrokit.image.fetch import cache_dir

CLOSURE = (
    "__init__.py", "errors.py", "core/__init__.py", "core/cbor.py", "core/cose.py", "core/measurements.py", "core/attestation/__init__.py", "core/attestation/document.py",
    "core/attestation/appraisal.py", "core/attestation/chain.py", "core/attestation/path.py", "core/attestation/policy.py",
    "core/attestation/roots.py", "core/attestation/verifier.py", "handlers/__init__.py", "handlers/check_enclave.py",
)  # fmt: skip
"""What of nitrokit a Lambda ships: an edit of anything else never changes its asset. A test compares it with what the handler imports."""

_PLATFORMS = {"x86_64": ("manylinux_2_28_x86_64", "manylinux2014_x86_64"), "arm64": ("manylinux_2_28_aarch64", "manylinux2014_aarch64")}


class BundlingError(EnvironmentProblem):
    """A Lambda's dependencies cannot be had."""

    area = "bundling"


def lambda_folder(name: str) -> Path:
    """The shim's folder: in the installed package, or beside the source root. Raises BundlingError."""
    package = Path(nitrokit.__file__).parent
    for folder in (package / "_lambda" / name, package.parents[1] / "lambda" / name):
        if (folder / "index.py").is_file():
            return folder
    raise BundlingError("no-shim", f"the function {name} is not in this installation", do="install nitrokit again")


def bundle(name: str, *, python: str, architecture: str) -> Path:
    """The asset's folder for a function; ``python``: e.g. "3.13"; ``architecture``: x86_64 or arm64. Raises BundlingError, UsageError for a runtime that is not Python 3."""
    if not re.fullmatch(r"3\.\d+", python):
        raise UsageError(
            "lambda-runtime",
            "the function needs a Python runtime",
            got=python,
            expected="e.g. python3.13",
            do="correct nitrokit:lambdaRuntime",
        )
    source, package = lambda_folder(name), Path(nitrokit.__file__).parent
    digest = hashlib.sha256(f"{python} {architecture}".encode())
    for path in [source / "index.py", source / "requirements.txt", *(package / module for module in CLOSURE)]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    target = cache_dir(os.environ) / "lambda" / f"{name}-{digest.hexdigest()[:32]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as folder:
        work = Path(folder) / "asset"
        _install(source / "requirements.txt", work, python, architecture)
        for module in CLOSURE:
            (work / "nitrokit" / module).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / module, work / "nitrokit" / module)
        shutil.copyfile(source / "index.py", work / "index.py")
        try:
            os.replace(work, target)
        except OSError:  # another process was faster: the content is the same
            if not target.is_dir():
                raise
    return target


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
