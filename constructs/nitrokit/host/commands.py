"""Programs of the parent, with their failures translated."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Dict, List, Optional

from nitrokit.host.codes import nitro_cli_code
from nitrokit.host.config import AgentError

_TIMEOUT = 420.0
_SHOWN = 600


def run(
    command: List[str], what: str, slug: str, *, timeout: float = _TIMEOUT, environment: Optional[Dict[str, str]] = None, stdin: str = ""
) -> str:
    """Run a program and return its stdout. Raises AgentError with the end of its stderr, and with nitro-cli's E-code, its cause and remedy where there is one."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(slug, f"{what} failed", got=str(error)[:_SHOWN], expected=f"{command[0]} on this instance") from error
    if done.returncode != 0:
        code = nitro_cli_code(done.stderr)
        told = f"{what} failed" if code is None else f"{what} failed: {code[1]}"
        got = " ".join((done.stderr or done.stdout).split())[-_SHOWN:]
        raise AgentError(slug, told, got=got, expected="exit code 0", do=None if code is None else code[2])
    return done.stdout


def nitro_cli(arguments: List[str], what: str) -> Any:
    """Run nitro-cli and parse its JSON. Raises AgentError."""
    output = run(["nitro-cli", *arguments], what, "nitro-cli")
    try:
        return json.loads(output)
    except ValueError as error:
        raise AgentError("nitro-cli", f"{what}: nitro-cli did not print JSON", got=output[:200]) from error


def succeeds(command: List[str]) -> bool:
    """Whether a program says yes."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
