"""From what enclaves need to the parent's pool: vCPUs, memory, and what is left. Sources: Nitro Enclaves User Guide "What is AWS Nitro Enclaves" (requirements), the allocator's script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nitrokit.core.hugepages import SizingError, pool_memory
from nitrokit.core.sizing.instance_types import Catalogue, InstanceType

MAX_ENCLAVES = 4
"""On one parent (Nitro Enclaves User Guide, "Multiple enclaves")."""
PARENT_MEMORY_MIB = 1024
"""Left for Amazon Linux, the SSM Agent and the host agent; ours."""
_KERNEL_SHARE = 32
"""A part in 32 of a node's memory never reaches huge pages: firmware, the kernel and its page tables; ours, on the safe side."""
_PLAIN = re.compile(r"[cmr]\d+([aig]?)")
_PROCESSORS = "iga"


@dataclass(frozen=True)
class EnclaveNeeds:
    """What one enclave asks for; ``arch`` as in enclave.toml."""

    name: str
    arch: str
    cpu_count: int
    memory_mib: int


@dataclass(frozen=True)
class Allocation:
    """``enclaves`` on ``instance_type``, each in whole cores. ``cpu_count`` and ``memory_mib`` are the allocator's values; the parent keeps the rest."""

    instance_type: InstanceType
    enclaves: tuple[EnclaveNeeds, ...]
    cpu_count: int
    memory_mib: int

    @property
    def parent_vcpus(self) -> int:
        return self.instance_type.vcpus - self.cpu_count

    @property
    def parent_memory_mib(self) -> int:
        return self.instance_type.memory_mib - self.memory_mib


def allocate(kind: InstanceType, enclaves: Sequence[EnclaveNeeds], catalogue: Catalogue | None = None) -> Allocation:
    """The allocation of ``enclaves`` on ``kind``. Raises SizingError, which names the nearest type of ``catalogue`` that fits."""
    _check(enclaves)
    planned = _plan(kind, enclaves)
    misfit = _misfit(planned)
    if misfit is not None:
        misfit.do = _advice(kind, enclaves, catalogue)
        raise misfit
    return planned


def choose(enclaves: Sequence[EnclaveNeeds], catalogue: Catalogue) -> Allocation:
    """The smallest type that fits: fewest vCPUs, then least memory. EC2 tells no prices.

    Taken first are the plain families c, m and r (no local disks, accelerators or special networks), and of equal sizes generation 6, which most Regions have, then newer, then older ones;
    Intel before AMD. Where none of those fits, any type. Raises SizingError when nothing fits.
    """
    _check(enclaves)
    best = min(_fitting(enclaves, catalogue.types.values()), key=_preference, default=None)
    if best is None:
        largest = max((one for one in catalogue.types.values() if one.arch == enclaves[0].arch), key=_cpu_limit, default=None)
        expected = f"at most {_cpu_limit(largest)} vCPUs and {_memory_limit(largest)} MiB ({largest.name})" if largest else "a known type"
        total = f"{sum(one.cpu_count for one in enclaves)} vCPUs and {sum(one.memory_mib for one in enclaves)} MiB"
        raise SizingError(
            "no-type", "no instance type holds these enclaves", got=total, expected=expected, do="spread them over several hosts"
        )
    return _plan(best, enclaves)


def _check(enclaves: Sequence[EnclaveNeeds]) -> None:
    if not 1 <= len(enclaves) <= MAX_ENCLAVES:
        raise SizingError(
            "enclaves", "too many or no enclaves for one parent", got=len(enclaves), expected=f"1 to {MAX_ENCLAVES}", do="use more hosts"
        )
    if len({one.arch for one in enclaves}) > 1:
        raise SizingError(
            "mixed-arch",
            "one parent has one architecture",
            got=", ".join(f"{one.name}: {one.arch}" for one in enclaves),
            do="put images of another architecture on another host",
        )


def _plan(kind: InstanceType, enclaves: Sequence[EnclaveNeeds]) -> Allocation:
    threads = kind.threads_per_core
    whole = tuple(replace(one, cpu_count=-(-one.cpu_count // threads) * threads) for one in enclaves)
    memory = pool_memory([one.memory_mib for one in enclaves], enclaves[0].arch)
    return Allocation(kind, whole, sum(one.cpu_count for one in whole), memory)


def _misfit(planned: Allocation) -> SizingError | None:
    """Why it does not fit; None when it does."""
    kind = planned.instance_type
    names = ", ".join(one.name for one in planned.enclaves)
    if planned.enclaves[0].arch != kind.arch:
        return SizingError(
            "arch",
            f"{kind.name} cannot hold {names}",
            got=f"images for {planned.enclaves[0].arch}, an instance of {kind.arch}",
            expected="the same architecture",
        )
    if planned.cpu_count > _cpu_limit(kind):
        cores = f"whole cores of {kind.threads_per_core} vCPUs, one core for the parent{_of_node(kind)}"
        return SizingError(
            "cpus",
            f"{kind.name} cannot hold {names}",
            got=f"{planned.cpu_count} of {kind.vcpus} vCPUs",
            expected=f"at most {_cpu_limit(kind)} ({cores})",
        )
    if planned.memory_mib > _memory_limit(kind):
        left = f"{PARENT_MEMORY_MIB} MiB and a {_KERNEL_SHARE}nd for the parent{_of_node(kind)}"
        return SizingError(
            "pool-memory",
            f"{kind.name} cannot hold {names}",
            got=f"{planned.memory_mib} of {kind.memory_mib} MiB",
            expected=f"at most {_memory_limit(kind)} ({left})",
        )
    return None


def _cpu_limit(kind: InstanceType) -> int:
    """VCPUs of one NUMA node; CPU 0 and its siblings stay with the parent."""
    return kind.vcpus - kind.threads_per_core if kind.nodes == 1 else kind.vcpus // kind.nodes


def _memory_limit(kind: InstanceType) -> int:
    node = kind.memory_mib // kind.nodes
    return max(0, node - node // _KERNEL_SHARE - PARENT_MEMORY_MIB) // 2 * 2


def _of_node(kind: InstanceType) -> str:
    return "" if kind.nodes == 1 else f", all of one of {kind.nodes} NUMA nodes"


def _fitting(enclaves: Sequence[EnclaveNeeds], kinds: Iterable[InstanceType]) -> list[InstanceType]:
    return [kind for kind in kinds if _misfit(_plan(kind, enclaves)) is None]


def _preference(kind: InstanceType) -> tuple[object, ...]:
    plain = _PLAIN.fullmatch(kind.family)
    if plain is None:
        return True, kind.vcpus, kind.memory_mib, kind.name
    return False, kind.vcpus, kind.memory_mib, kind.generation < 6, kind.generation, _PROCESSORS.find(plain[1]), kind.name


def _advice(kind: InstanceType, enclaves: Sequence[EnclaveNeeds], catalogue: Catalogue | None) -> str:
    """The nearest that fits: the smallest of the same family, else of all."""
    types = catalogue.types.values() if catalogue else ()
    fitting = _fitting(enclaves, types)
    same = [one for one in fitting if one.family == kind.family]
    if not fitting:
        return "spread the enclaves over several hosts"
    return f"take {min(same or fitting, key=_preference).name}, the nearest that fits"
