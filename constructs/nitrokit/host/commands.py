"""Programs of the parent, with their failures translated: nitro-cli's E-codes come with the remedy (Nitro Enclaves User Guide "Nitro CLI error codes")."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, List

from nitrokit.host.config import AgentError

_TIMEOUT = 420
_REMEDIES = {
    "E19": "launch the instance with EnclaveOptions, and let the allocate step run first",
    "E20": "ask for whole cores: an even cpu_count on processors with two threads a core",
    "E22": "raise the pool's cpu_count (allocate step), or end another enclave",
    "E26": "give the enclave at least four times its image's size",
    "E27": "raise the pool's memory (allocate step), or end another enclave",
    "E29": "the previous enclave's resources are still draining: try again in a few seconds",
    "E35": "fetch the image again; if it is whole, look at the huge pages of the pool",
    "E36": "look at the enclave's console in debug mode; only one launch at a time can succeed",
    "E39": "another launch may be under way, or the image is signed by an expired certificate",
    "E59": "sign the image again: its certificate is not valid",
}


def run(command: List[str], what: str, slug: str) -> str:
    """Run a program and return its stdout. Raises AgentError with the end of its stderr, and with nitro-cli's E-code and remedy where there is one."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(slug, f"{what} failed", got=str(error), expected=f"{command[0]} on this instance") from error
    if done.returncode != 0:
        found = re.search(r"\[ (E\d\d) \]", done.stderr)
        remedy = _REMEDIES.get(found.group(1)) if found else None
        raise AgentError(slug, f"{what} failed", got=" ".join(done.stderr.split())[-600:], expected="exit code 0", do=remedy)
    return done.stdout


def nitro_cli(arguments: List[str], what: str) -> Any:
    """Run nitro-cli and parse its JSON. Raises AgentError."""
    output = run(["nitro-cli", *arguments], what, "nitro-cli")
    try:
        return json.loads(output)
    except ValueError as error:
        raise AgentError("nitro-cli", f"{what}: nitro-cli did not print JSON", got=output[:200]) from error
