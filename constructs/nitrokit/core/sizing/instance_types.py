"""Instance types that can be parents, as EC2's DescribeInstanceTypes tells them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.core.hugepages import SizingError

_ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64"}
_NODE_VCPUS = ((8, 96), (6, 64), (0, 48))
"""(from generation, vCPUs of a NUMA node). EC2 does not tell nodes: these are the smallest sockets of a generation (24 cores of two threads in the fifth, 64 vCPUs in the sixth and seventh,
96 from the eighth on), so what is refused for its nodes may fit."""


@dataclass(frozen=True)
class InstanceType:
    """``arch`` as in enclave.toml; ``memory_mib``: of the whole instance. ``numa_nodes`` None: not known, see ``nodes``."""

    name: str
    arch: str
    vcpus: int
    threads_per_core: int
    memory_mib: int
    numa_nodes: int | None = None

    @property
    def family(self) -> str:
        return family(self.name)

    @property
    def nodes(self) -> int:
        """NUMA nodes: those given, else assumed from the generation."""
        return self.numa_nodes or -(-self.vcpus // next(size for since, size in _NODE_VCPUS if self.generation >= since))

    @property
    def generation(self) -> int:
        """E.g. 6 for m6i; 0 where the family's name has no number."""
        number = re.search(r"\d+", self.family)
        return int(number[0]) if number else 0


@dataclass(frozen=True)
class Catalogue:
    """``types`` by name, all of which support enclaves; ``without``: families of which no size does; ``source``: where and when this was read."""

    types: Mapping[str, InstanceType]
    without: frozenset[str]
    source: str

    def find(self, name: str) -> InstanceType | None:
        """The type; None for a family that this catalogue has never heard of. Raises SizingError for one that does not support enclaves."""
        found = self.types.get(name)
        if found is not None:
            return found
        sizes = sorted((one for one in self.types.values() if one.family == family(name)), key=lambda one: (one.vcpus, one.name))
        if sizes or family(name) in self.without:
            raise SizingError(
                "unsupported-type",
                f"instance type {name} does not support Nitro Enclaves",
                got=name,
                expected=f"{sizes[0].name} or a larger one, but not metal" if sizes else "another family",
                do="take one that does: https://docs.aws.amazon.com/enclaves/latest/user/nitro-enclave.html#nitro-enclave-reqs",
            )
        return None

    def to_json(self) -> str:
        """One type a line, so that a refresh can be reviewed."""
        rows = ",\n".join(f"  {json.dumps(one.name)}: {json.dumps(_row(one))}" for _, one in sorted(self.types.items()))
        return (
            f'{{\n "source": {json.dumps(self.source)},\n "without": {json.dumps(sorted(self.without))},\n "types": {{\n{rows}\n }}\n}}\n'
        )


def _row(one: InstanceType) -> list[str | int]:
    return [one.arch, one.vcpus, one.threads_per_core, one.memory_mib]


def family(name: str) -> str:
    """E.g. "m6i" of "m6i.xlarge"."""
    return name.partition(".")[0]


def parse_catalogue(text: str) -> Catalogue:
    """What ``Catalogue.to_json`` wrote. Raises SizingError."""
    try:
        value: dict[str, Any] = json.loads(text)
        types = {
            str(name): InstanceType(str(name), str(arch), int(vcpus), int(threads), int(memory))
            for name, (arch, vcpus, threads, memory) in value["types"].items()
        }
        return Catalogue(types, frozenset(map(str, value["without"])), str(value["source"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SizingError("catalogue", "the table of instance types is damaged", got=repr(error)[:120]) from error


def catalogue_from_ec2(descriptions: Iterable[Mapping[str, Any]], source: str) -> Catalogue:
    """From the ``InstanceTypes`` of EC2's DescribeInstanceTypes (all types, so that those without enclaves are known too). Raises SizingError."""
    types: dict[str, InstanceType] = {}
    families: set[str] = set()
    try:
        for one in descriptions:
            families.add(family(one["InstanceType"]))
            if one.get("NitroEnclavesSupport") == "supported":
                types[one["InstanceType"]] = _described(one)
    except (KeyError, TypeError, StopIteration, AttributeError) as error:
        raise SizingError(
            "ec2-types", "not what DescribeInstanceTypes answers", got=repr(error)[:120], do="aws ec2 describe-instance-types --output json"
        ) from error
    return Catalogue(types, frozenset(families - {one.family for one in types.values()}), source)


def _described(one: Mapping[str, Any]) -> InstanceType:
    arch = next(_ARCHITECTURES[name] for name in one["ProcessorInfo"]["SupportedArchitectures"] if name in _ARCHITECTURES)
    vcpus = one["VCpuInfo"]
    return InstanceType(one["InstanceType"], arch, vcpus["DefaultVCpus"], vcpus["DefaultThreadsPerCore"], one["MemoryInfo"]["SizeInMiB"])
