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

from nitrokit.core.manifest import Manifest
from nitrokit.image.build import read_manifest
from nitrokit.image.errors import FetchError
from nitrokit.image.files import write_atomically
from nitrokit.image.lock import PACKAGES, write_json
from nitrokit.image.mirrors import apt_mirrors
from nitrokit.image.rootfs import PYTHON_VERSIONS

_DEBIAN_ARCH = {"x86_64": "amd64"}
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def lock_image(folder: Path, *, cache: Path, progress: Callable[[str], None]) -> None:
    """Write packages.lock.json and the requirements file (from its ``.in`` beside it). Raises FetchError."""
    manifest = read_manifest(folder)
    write_json(folder / PACKAGES, {"suite": manifest.packages.suite, "packages": _packages(manifest, progress)})
    requirements = folder / manifest.packages.requirements
    progress(f"resolving {requirements.with_suffix('.in').name}")
    write_atomically(requirements, [_requirements(requirements.with_suffix(".in"), PYTHON_VERSIONS[manifest.packages.suite]).encode()])


def _packages(manifest: Manifest, progress: Callable[[str], None]) -> list[dict[str, str]]:
    """The closure of the included packages, by apt, from the suite's main archive (files of a security archive vanish when they are superseded)."""
    with tempfile.TemporaryDirectory(prefix="nitrokit-apt-") as name:
        config = _apt_state(Path(name), manifest)
        progress(f"apt: {manifest.packages.suite}")
        _apt(config, "apt-get", "update", "--quiet")
        wanted = dict(
            re.findall(r"^Inst (\S+) \((\S+)", _apt(config, "apt-get", "install", "--simulate", *manifest.packages.include), re.MULTILINE)
        )
        records = [
            _record(config, package, version) for package, version in sorted(wanted.items()) if package not in manifest.packages.omit
        ]
    return records


def _apt_state(root: Path, manifest: Manifest) -> Path:
    for part in ("lists/partial", "cache/archives/partial"):
        (root / part).mkdir(parents=True)
    (root / "status").touch()
    mirror = next(mirror for mirror in apt_mirrors() if "security" not in mirror)
    (root / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {manifest.packages.suite} main\n")
    arch = _DEBIAN_ARCH[manifest.arch]
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


def _requirements(source: Path, python: str) -> str:
    """A hashed requirements file of wheels alone, as pip resolves ``source`` for the image's Python."""
    if not source.is_file():
        raise FetchError("no-requirements", f"no {source.name} in {source.parent}", expected="the names of the wheels that the image needs")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--implementation", "cp",
        "--python-version", python, "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64", "--target", "/nonexistent",
        "--report", "-", "--requirement", str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError("pip", f"pip could not resolve {source}", got=done.stderr.strip()[-800:], do="check the network and the names")
    installs: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    lines = [
        f"{one['metadata']['name'].lower()}=={one['metadata']['version']} --hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}"
        for one in installs
    ]
    return f"# Written by `nitrokit lock` from {source.name}.\n" + "\n".join(sorted(lines)) + "\n"
