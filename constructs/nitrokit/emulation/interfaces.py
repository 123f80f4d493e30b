"""The seam between the local AWS and the emulated hardware under its instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nitrokit.errors import EnvironmentProblem


class EmulationError(EnvironmentProblem):
    """The emulation cannot do what is asked on this machine."""

    area = "emulation"


@dataclass(frozen=True)
class ScriptResult:
    """How a script on an instance ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class InstanceDescription:
    """An instance as EC2 knows it. ``environment``: what its programs see of AWS; ``routes``: "host:port" → loopback address, where AWS's DNS would lead."""

    instance_id: str
    region: str
    account: str
    role_arn: str | None
    enclave_enabled: bool
    environment: Mapping[str, str]
    routes: Mapping[str, tuple[str, int]]


class InstanceHost(Protocol):
    """An instance on which scripts run."""

    def run_script(self, script: str, environment: Mapping[str, str], timeout: float) -> ScriptResult: ...
    def close(self) -> None: ...
