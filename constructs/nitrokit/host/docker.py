"""An EIF that the parent builds itself, by nitro-cli from an image in ECR. What comes out is worth what the lock says of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from nitrokit.host.commands import run
from nitrokit.host.config import STATE, Config
from nitrokit.host.files import replace

_ARTIFACTS = STATE / "artifacts"


def build(config: Config, eif: Path) -> None:
    """Pull and build, without a password on a command line or left on the disk. Raises AgentError."""
    registry = config.docker_uri.partition("/")[0]
    part = eif.with_suffix(".part")
    # Where nitro-cli builds; without it, and without HOME under Systems Manager, it refuses (E51).
    _ARTIFACTS.mkdir(parents=True, exist_ok=True)
    Path("/run/nitrokit").mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(dir="/run/nitrokit", prefix="docker-")
    try:
        # nitro-cli looks for credentials below HOME.
        environment = {"HOME": folder, "DOCKER_CONFIG": f"{folder}/.docker", "NITRO_CLI_ARTIFACTS": str(_ARTIFACTS)}
        password = run(["aws", "ecr", "get-login-password"], "asking ECR for a password", "docker", timeout=60)
        run(
            ["docker", "login", "--username", "AWS", "--password-stdin", registry],
            "logging in to ECR", "docker", environment=environment, stdin=password, timeout=60,
        )  # fmt: skip
        run(["docker", "pull", "--quiet", config.docker_uri], "pulling the image", "docker", environment=environment, timeout=1200)
        run(
            ["nitro-cli", "build-enclave", "--docker-uri", config.docker_uri, "--output-file", str(part)],
            "building the image", "docker", environment=environment, timeout=1800,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(_ARTIFACTS, ignore_errors=True)
    replace(part, eif)
