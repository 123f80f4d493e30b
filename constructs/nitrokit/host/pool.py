"""The pool of CPUs and memory that nitro-enclaves-allocator.service takes from the parent: one pool for all enclaves of it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from nitrokit.core.hugepages import pool_memory
from nitrokit.host import launch, units
from nitrokit.host.codes import allocator_code
from nitrokit.host.commands import run
from nitrokit.host.config import STATE, AgentError, Config, Need, installed
from nitrokit.host.files import write_atomically

_ALLOCATOR_YAML = Path("/etc/nitro_enclaves/allocator.yaml")
_NE_CPUS = Path("/sys/module/nitro_enclaves/parameters/ne_cpus")
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
_SERVICE = "nitro-enclaves-allocator.service"
_RESERVED = STATE / "pool"
"""allocator.yaml as it was last reserved: what a pool that cannot be had is taken back to."""


def allocate(config: Config) -> Dict[str, Any]:
    """Reserve the pool for all enclaves of the parent and read it back: the allocator has been known to say success on failure (aws-nitro-enclaves-cli issue 313).

    A pool that is large enough stays as it is while an enclave runs. A larger one ends the enclaves, since the allocator refuses to run beside one, and starts them again. A pool that
    cannot be had is taken back, so that the enclaves that ran run on. Raises AgentError.
    """
    cpu_count, memory_mib = wanted(config)
    text = f"---\nmemory_mib: {memory_mib}\ncpu_count: {cpu_count}\n"
    # Not YAML: a shell script reads it, and a comment behind a value would break it (aws-nitro-enclaves-cli:bootstrap/nitro-enclaves-allocator).
    write_atomically(_ALLOCATOR_YAML, text)
    run(["systemctl", "enable", _SERVICE], "enabling the allocator", "allocate")
    try:
        if _lacking(cpu_count, memory_mib) or (_read(_RESERVED) != text and not launch.running()):
            units.stop_enclaves()
            _end_leftovers()
            _reserve(text, cpu_count, memory_mib)
        write_atomically(_RESERVED, text)
    finally:
        # Also where nothing changed: an agent that was killed half way may have left them stopped.
        units.start_enclaves()
    return {"cpus": cpus(), "memory_mib": memory()}


def wanted(config: Config) -> Tuple[int, int]:
    """CPUs and MiB of the pool: all that is installed on this parent, and all that ``config`` says is to come. Raises AgentError."""
    needs: Dict[str, Need] = {one.name: Need(one.name, one.cpu_count, one.memory_mib) for one in installed()}
    needs.update({one.name: one for one in config.pool})
    if len(needs) > 4:
        raise AgentError(
            "too-many",
            "a parent runs at most four enclaves",
            got=", ".join(sorted(needs)),
            expected="at most 4",
            do="deploy one on another host",
        )
    memories = [one.memory_mib for one in needs.values()]
    return sum(one.cpu_count for one in needs.values()), pool_memory(memories, platform.machine())


def _reserve(text: str, cpu_count: int, memory_mib: int) -> None:
    former = _read(_RESERVED)
    failure = _restart()
    if failure is None and not _lacking(cpu_count, memory_mib):
        return
    error = _explain(failure, cpu_count, memory_mib)
    if former and former != text:
        write_atomically(_ALLOCATOR_YAML, former)
        _restart()
    raise error


def _restart() -> Optional[AgentError]:
    try:
        run(["systemctl", "restart", _SERVICE], "reserving the pool", "allocate")
    except AgentError as error:
        return error
    return None


def _explain(failure: Optional[AgentError], cpu_count: int, memory_mib: int) -> AgentError:
    """The allocator prints its cause to its journal alone."""
    try:
        journal = run(
            ["journalctl", "--no-pager", "--lines", "30", "--output", "cat", "--unit", _SERVICE], "reading the journal", "allocate"
        )
    except AgentError:
        journal = ""
    found = allocator_code(journal)
    got = f"{len(cpus())} CPUs and {memory()} MiB" + (f"; {failure.got}" if failure else "")
    if found is None:
        return AgentError(
            "pool",
            "the allocator reserved too little",
            got=got,
            expected=f"{cpu_count} CPUs and {memory_mib} MiB",
            do="take a larger instance type; with none at all, launch the instance with EnclaveOptions",
        )
    code, cause, remedy = found
    numbered = f" (allocator code {code})" if code else ""
    return AgentError(
        "allocator",
        f"the pool cannot be reserved: {cause}{numbered}",
        got=got,
        expected=f"{cpu_count} CPUs and {memory_mib} MiB",
        do=remedy,
    )


def _end_leftovers() -> None:
    """An enclave of ours whose unit is gone is ended; anybody else's is not ours to end. Raises AgentError."""
    ours = {one.name for one in installed()}
    for one in launch.running():
        if one.get("EnclaveName") not in ours:
            raise AgentError(
                "foreign-enclave",
                "an enclave that the agent does not know holds the pool",
                got=str(one.get("EnclaveName")),
                expected=", ".join(sorted(ours)) or "no enclave",
                do=f"nitro-cli terminate-enclave --enclave-id {one.get('EnclaveID')}",
            )
        launch.terminate(one)


def _lacking(cpu_count: int, memory_mib: int) -> bool:
    return len(cpus()) < cpu_count or memory() < memory_mib


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cpus() -> List[int]:
    """The CPUs that are reserved, as the driver says: "2,3" or "2-3"; none where there is no driver. Raises AgentError."""
    text = _read(_NE_CPUS).strip()
    found: List[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise AgentError("pool", "the driver's list of CPUs is not one", got=text[:80], expected="e.g. 2-3") from error
    return found


def memory() -> int:
    """MiB in huge pages, of all sizes that enclaves take (2 MiB and more)."""
    total = 0
    for folder in _HUGE_PAGES.glob("hugepages-*kB"):
        kib = int(folder.name[len("hugepages-") : -len("kB")])
        count = _read(folder / "nr_hugepages").strip()
        total += kib * int(count) // 1024 if kib >= 2048 and count.isdigit() else 0
    return total
