"""``nitrokit doctor``: what this machine lacks, and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.certificates import certificate_findings
from nitrokit.cli.finding import Finding
from nitrokit.cli.output import JsonOption, result
from nitrokit.errors import UsageError

_NODE_MAJOR = 22


_SIGNS = {"ok": "✓", "missing": "✗", "absent": "·", "wrong": "✗", "soon": "!"}


def doctor(
    folder: Annotated[Path, typer.Argument(help="Images at and below it: their signing certificates are looked at.")] = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Say what this machine lacks, and how to get it. Exit 3: something needed; also which images' signing certificates have ended (exit 1) or soon will."""
    if not folder.is_dir():
        raise UsageError(
            "no-folder", "there is no such folder to look for images in", got=str(folder), do="name a folder, or none: it is this one then"
        )
    findings = [*(check() for check in _CHECKS), *certificate_findings(folder, time=datetime.now(UTC))]

    def human() -> None:
        for finding in findings:
            print(f"{_SIGNS[finding.state]} {finding.name}: {finding.found}")
            if finding.remedy:
                print(f"    {finding.remedy}")

    result([vars(finding) for finding in findings], as_json=as_json, human=human)
    states = {finding.state for finding in findings}
    if states & {"missing", "wrong"}:
        raise typer.Exit(3 if "missing" in states else 1)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        Finding("Python", "ok", version)
        if sys.version_info >= (3, 11)
        else Finding("Python", "missing", version, "install Python 3.11 or newer")
    )


def _node() -> Finding:
    node = _find("node")
    if node is None:
        return Finding("Node", "missing", "not found", "run `make setup`: package-lock.json pins one")
    version = _run([node, "--version"]).lstrip("v")
    new_enough = version.split(".")[0].isdigit() and int(version.split(".")[0]) >= _NODE_MAJOR
    remedy = "" if new_enough else f"jsii supports Node {_NODE_MAJOR} and newer; run `make setup`: package-lock.json pins one"
    return Finding("Node", "ok" if new_enough else "absent", f"{version} ({node})", remedy)


def _cdk() -> Finding:
    cdk = _find("cdk")
    if cdk is None:
        return Finding(
            "CDK CLI", "missing", "not found", "run `make setup`: package-lock.json pins 2.1148.1 (npm's latest tag is a broken 3.0.0)"
        )
    return Finding("CDK CLI", "ok", cdk)


def _sandbox() -> Finding:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return Finding("bubblewrap", "missing", "not found", "apt-get install bubblewrap")
    probe = subprocess.run(
        [bwrap, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        return Finding(
            "bubblewrap",
            "missing",
            f"cannot make namespaces: {probe.stderr.strip()}",
            "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)",
        )
    return Finding("bubblewrap", "ok", bwrap)


def _qemu() -> Finding:
    qemu = os.environ.get("NITROKIT_QEMU") or shutil.which("qemu-system-x86_64")
    without = "enclaves run as sandboxed processes; for the nitro-enclave machine build QEMU 9.2 or newer with it, and set NITROKIT_QEMU"
    if qemu is None or not Path(qemu).exists():
        return Finding("QEMU nitro-enclave", "absent", "not found", without)
    if "nitro-enclave" not in _run([qemu, "-M", "help"]):
        return Finding(
            "QEMU nitro-enclave", "absent", f"{qemu} has no nitro-enclave machine (Debian's leaves it out), or does not start", without
        )
    return Finding("QEMU nitro-enclave", "ok", qemu)


def _kernel() -> Finding:
    for variable, default in (("NITROKIT_BLOBS", None), ("NITRO_CLI_BLOBS", "/usr/share/nitro_enclaves/blobs")):
        folder = os.environ.get(variable, default)
        if folder and (Path(folder) / "bzImage").is_file():
            return Finding("enclave kernel", "ok", f"{folder}/bzImage")
    return Finding(
        "enclave kernel",
        "absent",
        "no blobs folder",
        "one is built from Debian's source at need, once (about ten minutes), or set NITROKIT_BLOBS",
    )


def _apt() -> Finding:
    apt = shutil.which("apt-get")
    return (
        Finding("apt", "ok", apt)
        if apt
        else Finding("apt", "missing", "not found", "images are made of Debian packages, found through this machine's apt configuration")
    )


def _find(name: str) -> str | None:
    folder = Path("node_modules/.bin").resolve()
    return shutil.which(name, path=os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)]))


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


_CHECKS: tuple[Callable[[], Finding], ...] = (_python, _node, _cdk, _sandbox, _apt, _kernel, _qemu)
