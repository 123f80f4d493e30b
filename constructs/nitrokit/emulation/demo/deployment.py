"""The real ``cdk bootstrap`` and ``cdk deploy`` against the local AWS, as a child process that ends with us."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from nitrokit.emulation import children
from nitrokit.errors import EnvironmentProblem, NitrokitError

_CAUSES = ("❌", "CREATE_FAILED", "UPDATE_FAILED", "failed:", "Error", "error:")


class DeployError(NitrokitError):
    """The CDK CLI failed."""

    area = "deploy"


class Cdk:
    """The pinned CDK CLI, run in the app's folder with the local AWS's environment.

    ``log`` receives everything the CLI prints.
    """

    def __init__(self, app_dir: Path, work_dir: Path, environment: Mapping[str, str], note: Callable[[str], None]) -> None:
        self.app_dir = app_dir
        self.work_dir = work_dir
        self.note = note
        self.log = work_dir / "cdk.log"
        binaries = app_dir / "node_modules" / ".bin"
        path = os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        # The tests run the template's validation; here it would cost seconds of every deployment.
        self.environment = {**os.environ, **environment, "PATH": path, "FORCE_COLOR": "0", "CDK_VALIDATION": "false"}
        self._cdk = shutil.which("cdk", path=path)
        if self._cdk is None or shutil.which("node", path=path) is None:
            missing = "cdk" if self._cdk is None else "node"
            raise EnvironmentProblem(
                "no-node",
                f"{missing} is not on PATH nor in {binaries}",
                expected="the CDK CLI and Node of package-lock.json",
                do="run `make setup` (or `npm ci`) in the project's folder",
            )

    def bootstrap(self, account: str, region: str) -> None:
        """``cdk bootstrap``: the bucket and roles that a deployment needs. Raises DeployError."""
        # Not in the app's folder: it needs no synthesis, and two of them would meet in cdk.out.
        self._run("bootstrap", f"aws://{account}/{region}", folder=self.work_dir)

    def deploy(self, context: Mapping[str, str]) -> dict[str, str]:
        """``cdk deploy --all`` with ``context`` for the app; returns the stacks' outputs. Raises DeployError with the cause."""
        outputs = self.work_dir / "outputs.json"
        words = [word for key, value in context.items() for word in ("-c", f"{key}={value}")]
        self._run(
            "deploy",
            "--all",
            "--require-approval",
            "never",
            "--progress",
            "events",
            "--outputs-file",
            str(outputs),
            "--output",
            str(self.work_dir / "cdk.out"),
            *words,
        )
        stacks: dict[str, dict[str, str]] = json.loads(outputs.read_text())
        return {name: value for stack in stacks.values() for name, value in stack.items()}

    def _run(self, *arguments: str, folder: Path | None = None) -> None:
        assert self._cdk is not None
        command = [self._cdk, *arguments, "--ci", "--no-notices"]
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the CLI with its children.
            process = children.start(
                command,
                cwd=folder or self.app_dir,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    text = line.decode(errors="replace").strip()
                    if text:
                        self.note(text[:140])
                code = process.wait()
            finally:
                _end(process)
        if code != 0:
            raise DeployError(
                "cdk",
                f"cdk {arguments[0]} failed",
                got=self._cause(before),
                expected="exit code 0",
                do="read cdk.log in the folder that --keep names",  # any other is removed
            )

    def _cause(self, before: int) -> str:
        """What the command said last, or last of errors; ``before``: where in the log it began."""
        said = self.log.read_bytes()[before:].decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        causes = [line for line in lines if any(mark in line for mark in _CAUSES)]
        return " | ".join((causes or lines)[-3:])[:1500]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=5)
            return
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
