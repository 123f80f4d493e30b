"""Resolving an image's packages and wheels to versions and hashes: apt with a private state (no root), pip's resolver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nitrokit.core.manifest import Packages
from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.build import read_manifest
from nitrokit.image.debian import suite_python
from nitrokit.image.errors import FetchError
from nitrokit.image.files import write_atomically
from nitrokit.image.lock import PACKAGES, write_json
from nitrokit.image.mirrors import apt_mirrors

_PIP = """
import json, runpy, sys
from pip._vendor.packaging import markers
environment = json.loads(sys.argv.pop(1))
markers.default_environment = lambda: dict(environment)
runpy.run_module("pip", run_name="__main__")
"""
"""pip's --python-version and --platform choose wheels, but what they depend on it takes by the Python that runs it (pypa/pip issue 11664): so it is told the image's."""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def lock_image(folder: Path, *, progress: Callable[[str], None]) -> None:
    """Write packages.lock.json and the requirements file (from its ``.in`` beside it) of an image of packages; other sources are pinned in enclave.toml. Raises FetchError."""
    manifest = read_manifest(folder)
    if isinstance(manifest.source, Packages):
        requirements = manifest.source.requirements
        lock_packages(
            manifest.source,
            manifest.arch,
            lock=folder / PACKAGES,
            requirements=None if requirements is None else ((folder / requirements).with_suffix(".in"), folder / requirements),
            progress=progress,
        )


def lock_packages(
    packages: Packages, arch: str, *, lock: Path, requirements: tuple[Path, Path] | None, progress: Callable[[str], None]
) -> None:
    """Resolve for an architecture, which need not be this machine's. ``requirements``: from which file to which. Raises FetchError, ImageError."""
    version = suite_python(packages.suite)
    if requirements is not None:
        _require(requirements[0])  # before apt takes its time
    locked = _packages(packages, arch, progress)
    wheels = ""
    if requirements is not None:
        progress(f"resolving {requirements[0].name}")
        wheels = resolve_wheels(requirements[0], _full_version(locked, version), arch)
    # All is known: neither file is written without the other.
    write_json(lock, {"suite": packages.suite, "arch": arch, "packages": locked})
    if requirements is not None:
        write_atomically(requirements[1], [wheels.encode()])


def _require(source: Path) -> None:
    if not source.is_file():
        raise FetchError(
            "no-requirements",
            f"no {source.name} in {source.parent}",
            expected="the names of the wheels that the image needs",
            do="write them there, one a line; or remove requirements from [packages]",
        )


def _full_version(locked: list[dict[str, str]], python: str) -> str:
    """Of the Python in the image, as its package says (3.11.2-6+deb12u6): some wheels need others up to a patch release."""
    names = (f"libpython{python}-minimal", f"python{python}-minimal")
    return next((one["version"].split("-")[0] for one in locked if one["name"] in names), f"{python}.0")


def _packages(packages: Packages, arch: str, progress: Callable[[str], None]) -> list[dict[str, str]]:
    """The closure of the included packages, by apt, from the suite's main archive (files of a security archive vanish when they are superseded)."""
    with tempfile.TemporaryDirectory(prefix="nitrokit-apt-") as name:
        config = _apt_state(Path(name), packages.suite, arch)
        progress(f"apt: {packages.suite} {arch}")
        _apt(config, "apt-get", "update", "--quiet")
        simulated = _apt(config, "apt-get", "install", "--simulate", *packages.include)
        wanted = dict(re.findall(r"^Inst (\S+) \((\S+)", simulated, re.MULTILINE))
        return [_record(config, package, version) for package, version in sorted(wanted.items()) if package not in packages.omit]


def _apt_state(root: Path, suite: str, architecture: str) -> Path:
    for part in ("lists/partial", "cache/archives/partial"):
        (root / part).mkdir(parents=True)
    (root / "status").touch()
    mirror = next(mirror for mirror in apt_mirrors() if "security" not in mirror)
    (root / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n")
    arch = ARCHITECTURES[architecture].debian
    config = root / "apt.conf"
    config.write_text(
        f'Dir::State "{root}"; Dir::State::lists "{root}/lists"; Dir::State::status "{root}/status"; Dir::Cache "{root}/cache"; Dir::Etc::sourcelist "{root}/sources.list";\n'
        f'Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "-"; APT::Architecture "{arch}"; APT::Architectures {{"{arch}";}};\n'
        'APT::Install-Recommends "false"; Acquire::Languages "none"; APT::Sandbox::User "root";\n'
    )
    return config


def _apt(config: Path, *command: str) -> str:
    done = subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        check=False,
        env={"APT_CONFIG": str(config), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"},
    )
    if done.returncode:
        raise FetchError(
            "apt",
            f"{command[0]} {command[1]} failed",
            got=done.stderr.strip()[-500:],
            do="check the network and the package names in enclave.toml",
        )
    return done.stdout


def _record(config: Path, package: str, version: str) -> dict[str, str]:
    shown = _apt(config, "apt-cache", "show", f"{package}={version}")
    fields = dict(re.findall(r"^(Filename|SHA256): (\S+)$", shown, re.MULTILINE))
    return {"name": package, "version": version, "path": fields["Filename"], "sha256": fields["SHA256"]}


def resolve_wheels(source: Path, python: str, arch: str) -> str:
    """A hashed requirements file of wheels alone, as pip resolves ``source`` for the image's Python (3.11.2) and architecture, whatever runs here. Raises FetchError."""
    _require(source)
    minor = ".".join(python.split(".")[:2])
    platforms = [word for platform in ARCHITECTURES[arch].wheels for word in ("--platform", platform)]
    environment = _environment(python, minor, arch)
    command = [
        sys.executable, "-c", _PIP, json.dumps(environment),
        "install", "--quiet", "--disable-pip-version-check", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--implementation", "cp",
        "--python-version", minor, *platforms, "--target", "/nonexistent",
        "--report", "-", "--requirement", str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError("pip", f"pip could not resolve {source}", got=done.stderr.strip()[-800:], do="check the network and the names")
    report: dict[str, Any] = json.loads(done.stdout)
    if report["environment"] != environment:
        raise FetchError(
            "pip", "this pip resolves for the Python that runs it, not for the image's", got=report["pip_version"], do="install a newer pip"
        )
    lines = [
        f"{one['metadata']['name'].lower()}=={one['metadata']['version']} --hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}"
        for one in report["install"]
    ]
    return f"# Written by `nitrokit lock` from {source.name}.\n" + "\n".join(sorted(lines)) + "\n"


def _environment(python: str, minor: str, arch: str) -> dict[str, str]:
    """The image's, in the words of dependency specifiers (PEP 508)."""
    return {
        "implementation_name": "cpython", "implementation_version": python, "os_name": "posix", "platform_machine": arch, "platform_release": "", "platform_system": "Linux",
        "platform_version": "", "python_full_version": python, "platform_python_implementation": "CPython", "python_version": minor, "sys_platform": "linux",
    }  # fmt: skip
