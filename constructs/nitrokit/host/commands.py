"""Programs of the parent, with their failures translated."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import IO, Any, Dict, List, Optional, Union

from nitrokit.host.codes import nitro_cli_code
from nitrokit.host.config import AgentError

_TIMEOUT = 420.0
_SHOWN = 600


def run(
    command: List[str],
    what: str,
    slug: str,
    *,
    timeout: float = _TIMEOUT,
    environment: Optional[Dict[str, str]] = None,
    stdin: Union[str, IO[str]] = "",
) -> str:
    """Run a program and return its stdout; ``stdin``: a text, or a file. Raises AgentError with the end of its stderr, and with nitro-cli's E-code, its cause and remedy where there is one."""
    try:
        done = subprocess.run(
            command,
            **({"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        lost = isinstance(error, FileNotFoundError) and slug == "nitro-cli"
        raise AgentError(
            slug,
            f"{what} failed",
            got=str(error)[:_SHOWN],
            expected=f"{command[0]} on this instance",
            do="run the install step, which brings it" if lost else None,
        ) from error
    if done.returncode != 0:
        code = nitro_cli_code(done.stderr)
        told = f"{what} failed" if code is None else f"{what} failed: {code[1]}"
        got = " ".join((done.stderr or done.stdout).split())[-_SHOWN:]
        raise AgentError(slug, told, got=got, expected="exit code 0", do=None if code is None else code[2])
    return done.stdout


def aws(service: str, action: str, request: Dict[str, Any], what: str, *, timeout: float) -> None:
    """An AWS call whose request is no command line's: that holds 128 KiB, and everybody on the host may read it. Raises AgentError."""
    try:
        # The aws command reads its input file twice, which a pipe does not survive.
        with tempfile.TemporaryFile("w+") as file:
            json.dump(request, file)
            file.seek(0)
            run(["aws", service, action, "--cli-input-json", "file:///dev/stdin"], what, "publish", timeout=timeout, stdin=file)
    except OSError as error:
        raise AgentError("publish", f"{what} failed", got=str(error), do="look at `df`") from error


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
