"""The pool of CPUs and memory that nitro-enclaves-allocator.service takes from the parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from nitrokit.host.commands import nitro_cli, run
from nitrokit.host.config import STATE, AgentError, Config, write_atomically

_ALLOCATOR_YAML = Path("/etc/nitro_enclaves/allocator.yaml")
_NE_CPUS = Path("/sys/module/nitro_enclaves/parameters/ne_cpus")
_SERVICE = "nitro-enclaves-allocator.service"
_RESERVED = STATE / "pool"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def allocate(config: Config) -> Dict[str, Any]:
    """Reserve the pool and read it back: the allocator has been known to say success on failure (aws-nitro-enclaves-cli issue 313). Raises AgentError."""
    # Not YAML: a shell script reads it, and a comment behind a value would break it (aws-nitro-enclaves-cli:bootstrap/nitro-enclaves-allocator).
    text = f"---\nmemory_mib: {config.memory_mib}\ncpu_count: {config.cpu_count}\n"
    write_atomically(_ALLOCATOR_YAML, text)
    # What was asked for is not yet what is reserved: an agent that was killed between the two must do the second.
    wanted = f"{text}# in boot {_BOOT_ID.read_text()}"
    if _reserved() != wanted or len(cpus()) < config.cpu_count:
        _restart()
        if len(cpus()) < config.cpu_count:
            raise AgentError(
                "pool",
                "the allocator reserved too few CPUs",
                got=",".join(map(str, cpus())) or "none",
                expected=f"{config.cpu_count}",
                do="take a larger instance type; with none at all, launch the instance with EnclaveOptions",
            )
        write_atomically(_RESERVED, wanted)
    return {"cpus": cpus(), "memory_mib": config.memory_mib}


def _restart() -> None:
    if nitro_cli(["describe-enclaves"], "listing enclaves"):
        # The allocator refuses to run while an enclave does.
        run(["nitro-cli", "terminate-enclave", "--all"], "ending enclaves of the old pool", "allocate")
    run(["systemctl", "enable", _SERVICE], "enabling the allocator", "allocate")
    run(["systemctl", "restart", _SERVICE], "reserving the pool", "allocate")


def _reserved() -> str:
    try:
        return _RESERVED.read_text()
    except OSError:
        return ""


def cpus() -> List[int]:
    """The CPUs that are reserved, as the driver says: "2,3" or "2-3"; none where there is no driver. Raises AgentError."""
    try:
        text = _NE_CPUS.read_text().strip()
    except OSError:
        return []
    found: List[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise AgentError("pool", "the driver's list of CPUs is not one", got=text[:80], expected="e.g. 2-3") from error
    return found
