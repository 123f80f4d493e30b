"""Known vulnerabilities of an image's Python wheels, by pip-audit: a program of its own, which asks PyPI or OSV for each name and version.

Its own environment variables choose the service (PIP_AUDIT_VULNERABILITY_SERVICE, PIP_AUDIT_OSV_URL).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nitrokit.errors import EnvironmentProblem
from nitrokit.image.contents import Installed

_TIMEOUT = 600


class AuditProblem(EnvironmentProblem):
    """The audit could not be made: nothing is known of the wheels."""

    area = "audit"


@dataclass(frozen=True)
class Vulnerability:
    """``id`` and ``aliases`` as the database names it; ``fixed_in``: versions."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...]
    fixed_in: tuple[str, ...]
    description: str

    def __str__(self) -> str:
        names = ", ".join((self.id, *self.aliases))
        return f"{self.package} {self.version}: {names}; fixed in {', '.join(self.fixed_in) or 'no version yet'}"


@dataclass(frozen=True)
class Audit:
    """``checked``: how many wheels were; ``skipped``: those that the service does not know, with its reason."""

    checked: int
    vulnerabilities: tuple[Vulnerability, ...]
    skipped: tuple[str, ...]


def audit(packages: Iterable[Installed]) -> Audit:
    """Of the packages those of Python. Raises AuditProblem."""
    wheels = sorted({(one.name.lower().replace("_", "-"), one.version) for one in packages if one.kind == "pypi"})
    if not wheels:
        return Audit(0, (), ())
    if importlib.util.find_spec("pip_audit") is None:
        raise AuditProblem(
            "missing", "pip-audit is not installed", expected="the extra nitrokit[audit]", do="pip install 'nitrokit[audit]'"
        )
    dependencies = [one for pins in _each_once(wheels) for one in _run(pins)]
    found = tuple(_vulnerability(one, vuln) for one in dependencies for vuln in one.get("vulns", ()))
    skipped = tuple(f"{one['name']}: {one['skip_reason']}" for one in dependencies if "skip_reason" in one)
    return Audit(len(dependencies) - len(skipped), found, skipped)


def _each_once(wheels: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Name → version, in sets that pip-audit takes: the app's wheels may be of other versions than init's."""
    sets: list[dict[str, str]] = [{}]
    for name, version in wheels:
        target = next((one for one in sets if name not in one), None)
        if target is None:
            sets.append(target := {})
        target[name] = version
    return sets


def _run(pins: dict[str, str]) -> list[dict[str, Any]]:
    """What pip-audit says of each package."""
    options = ["--no-deps", "--disable-pip", "--format", "json", "--output", "stdout", "--progress-spinner", "off"]
    with tempfile.TemporaryDirectory(prefix="nitrokit-audit-") as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        done = _pip_audit([*options, "--requirement", str(path)])
    if not done.stdout.lstrip().startswith("{"):
        raise AuditProblem(
            "failed", "pip-audit could not ask for known vulnerabilities: nothing is known of the image's wheels",
            got=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:400],
            expected="a vulnerability service that answers (PyPI by default)",
            do="check the network, or name another by PIP_AUDIT_VULNERABILITY_SERVICE=osv and PIP_AUDIT_OSV_URL",
        )  # fmt: skip
    dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return dependencies


def _vulnerability(one: dict[str, Any], vuln: dict[str, Any]) -> Vulnerability:
    aliases, fixed_in = tuple(vuln["aliases"]), tuple(vuln["fix_versions"])
    return Vulnerability(one["name"], one["version"], vuln["id"], aliases, fixed_in, vuln.get("description") or "")


def _pip_audit(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip_audit", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise AuditProblem("failed", f"pip-audit did not end in {_TIMEOUT} s", do="check the network") from error
