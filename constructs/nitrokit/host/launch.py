"""Enclaves by nitro-cli: which run, which is the right one, how one is launched and ended."""

from __future__ import annotations

import time
from typing import Any, Dict, List

from nitrokit.host import images
from nitrokit.host.commands import nitro_cli, run
from nitrokit.host.config import AgentError, Config
from nitrokit.host.locking import launching

_TRIES, _WAIT = 6, 0.5
_PASSING = {"[ E15 ]": 6, "[ E29 ]": 6, "[ E36 ]": 4, "[ E39 ]": 4}
"""Code → tries. CPUs and memory of an enclave that just ended may still be draining (aws-nitro-enclaves-cli issue 433), and somebody else's launch may hold port 9000 (issue 516)."""
_PASSES_WITHIN = 60.0
"""Seconds: an image that does not boot takes minutes to say so, and is not tried again and again."""


def running() -> List[Dict[str, Any]]:
    """What describe-enclaves shows. Raises AgentError."""
    return [dict(one) for one in nitro_cli(["describe-enclaves"], "listing enclaves")]


def find(name: str) -> Dict[str, Any]:
    """The running enclave of that name. Raises AgentError."""
    for one in running():
        if one.get("EnclaveName") == name and one.get("State") == "RUNNING":
            return one
    raise AgentError(
        "not-running", f"no enclave {name} is running", do="run it (again): `run`; if it ends by itself, read its console in debug mode"
    )


def is_right(one: Dict[str, Any], config: Config) -> bool:
    """Whether a running enclave is the configured one, in production mode."""
    measurements = one.get("Measurements") or {}
    same = all(str(measurements.get(name, "")).lower() == locked for name, locked in config.measurements.items())
    sized = one.get("NumberOfCPUs") == config.cpu_count and int(one.get("MemoryMiB") or 0) >= config.memory_mib
    return same and sized and one.get("State") == "RUNNING" and one.get("Flags") == "NONE" and one.get("EnclaveCID") == config.cid


def terminate(one: Dict[str, Any]) -> None:
    """End an enclave; one that has ended already is as good. Raises AgentError."""
    try:
        run(["nitro-cli", "terminate-enclave", "--enclave-id", str(one["EnclaveID"])], "ending the enclave", "nitro-cli")
    except AgentError:
        if any(other.get("EnclaveID") == one["EnclaveID"] for other in running()):
            raise


def end(name: str) -> bool:
    """End every enclave of that name; whether there was one. Raises AgentError."""
    found = [one for one in running() if one.get("EnclaveName") == name]
    for one in found:
        terminate(one)
    return bool(found)


def ensure(config: Config) -> Dict[str, Any]:
    """The right enclave runs: the one that does is left alone, a wrong one of this name is ended, and the image measured again before a launch. Raises AgentError."""
    with launching():
        right = [one for one in running() if one.get("EnclaveName") == config.name and is_right(one, config)]
        if right:
            return {**right[0], "started": False}
        images.verify(config, config.eif)
        end(config.name)
        return {**_launch(config), "started": True}


def _launch(config: Config) -> Dict[str, Any]:
    command = ["run-enclave", "--eif-path", str(config.eif), "--cpu-count", str(config.cpu_count), "--memory", str(config.memory_mib)]
    command += ["--enclave-cid", str(config.cid), "--enclave-name", config.name]
    begun = time.monotonic()
    for attempt in range(_TRIES):
        try:
            return dict(nitro_cli(command, "starting the enclave"))
        except AgentError as error:
            tries = next((number for code, number in _PASSING.items() if code in str(error.got)), 1)
            if attempt + 1 >= tries or time.monotonic() - begun > _PASSES_WITHIN:
                raise
            time.sleep(_WAIT * 2**attempt)
    raise AssertionError("unreachable")
