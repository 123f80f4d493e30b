"""Programs of the parent, with their failures translated: nitro-cli's E-codes come with the remedy (Nitro Enclaves User Guide "Nitro CLI error codes")."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, List

from nitrokit.host.config import AgentError

_TIMEOUT = 420
_REMEDIES = {
    "E05": "correct the flags: `nitro-cli <command> --help`",
    "E11": "the enclave has ended meanwhile, or its process does not answer: look at /var/log/nitro_enclaves/nitro_enclaves.log",
    "E15": "another nitro-cli is at work: try again in a few seconds",
    "E18": "run the agent as root",
    "E19": "launch the instance with EnclaveOptions, and let the allocate step run first",
    "E20": "ask for whole cores: an even cpu_count on processors with two threads a core",
    "E21": "a CPU that was asked for is not in the pool: use cpu_count, and let the allocate step run",
    "E22": "raise the pool's cpu_count (allocate step), or end another enclave",
    "E23": "CPU ids are numbers of the pool's CPUs",
    "E24": "look at /sys/module/nitro_enclaves/parameters/ne_cpus: the pool must be whole cores of one NUMA node",
    "E25": "the kernel offers no huge pages of a size that nitro-cli knows: use Amazon Linux's kernel",
    "E26": "give the enclave at least four times its image's size",
    "E27": "raise the pool's memory (allocate step), or end another enclave; with 1 GiB pages a small enclave takes a whole one",
    "E29": "the previous enclave's resources are still draining: try again in a few seconds",
    "E30": "update nitro-cli and the kernel: they disagree on where an image is loaded",
    "E31": "the pool's memory must lie on one NUMA node, in huge pages: reboot, and let the allocate step run",
    "E32": "the pool's CPUs must lie on one NUMA node: let the allocate step run again",
    "E33": "the image's architecture must be the instance's; memory and CPUs within the pool",
    "E34": "ask for less memory than the pool has",
    "E35": "fetch the image again; if it is whole, look at the huge pages of the pool",
    "E36": "look at the enclave's console in debug mode; only one launch at a time can succeed",
    "E37": "the enclave ended during its boot: look at its console in debug mode",
    "E39": "another launch may be under way, or the image is signed by an expired certificate",
    "E40": "the enclave's process has gone: run it again",
    "E44": "only a debug-mode enclave has a console",
    "E48": "docker is not needed: deploy an image that was built by `nitrokit build`",
    "E51": "set NITRO_CLI_ARTIFACTS, or HOME",
    "E52": "install aws-nitro-enclaves-cli-devel, or set NITRO_CLI_BLOBS",
    "E53": "set the instance's clock (chronyd)",
    "E58": "an enclave's name is letters, digits, - and _; or an enclave of that name runs already",
    "E59": "sign the image again: its certificate is not valid",
    "E60": "look at the signing key's permissions and the certificate's key type (P-384)",
}
_EXPLAIN = "`nitro-cli explain --error-code {}` says more"


def run(command: List[str], what: str, slug: str) -> str:
    """Run a program and return its stdout. Raises AgentError with the end of its stderr, and with nitro-cli's E-code and remedy where there is one."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(slug, f"{what} failed", got=str(error), expected=f"{command[0]} on this instance") from error
    if done.returncode != 0:
        found = re.search(r"\[ (E\d\d) \]", done.stderr)
        remedy = _REMEDIES.get(found.group(1), _EXPLAIN.format(found.group(1))) if found else None
        raise AgentError(slug, f"{what} failed", got=" ".join(done.stderr.split())[-600:], expected="exit code 0", do=remedy)
    return done.stdout


def nitro_cli(arguments: List[str], what: str) -> Any:
    """Run nitro-cli and parse its JSON. Raises AgentError."""
    output = run(["nitro-cli", *arguments], what, "nitro-cli")
    try:
        return json.loads(output)
    except ValueError as error:
        raise AgentError("nitro-cli", f"{what}: nitro-cli did not print JSON", got=output[:200]) from error
