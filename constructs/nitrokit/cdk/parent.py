"""What a parent of enclaves, a single host or a fleet, offers to the constructs that put enclaves on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aws_cdk import aws_iam as iam
from aws_cdk import aws_ssm as ssm
from constructs import IConstruct

from nitrokit.cdk.known import need_known, need_type
from nitrokit.core.manifest import Egress
from nitrokit.core.sizing import MAX_ENCLAVES

_FIRST_CID, _CIDS = 16, range(4, 2**32 - 1)
# The bundled vsock-proxy service has it (aws-nitro-enclaves-cli issue 699).
_TAKEN_PORT = 8000


@dataclass(frozen=True)
class Slot:
    """One enclave's place on its parent. ``arch``: as in enclave.toml; ``cpu_count`` and ``memory_mib``: what it takes of the parent's pool;
    ``attests``: whether it can be asked for a document.
    """

    name: str
    arch: str
    cid: int
    cpu_count: int
    memory_mib: int
    egress: tuple[Egress, ...]
    attests: bool


class EnclaveSlots:
    """What the enclaves of one parent share and must not take from each other: names, CIDs, vsock ports, the pool."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def claim(
        self,
        name: str,
        *,
        arch: str,
        cpu_count: int,
        memory_mib: int,
        egress: Sequence[Egress] = (),
        cid: int | None = None,
        attests: bool = True,
    ) -> Slot:
        """Take a place. ``cid`` None: the first free one from 16 on. Raises ValueError for a fifth enclave, and for a name, CID or vsock port that cannot be had."""
        need_known(cid=cid)
        need_type(int, cid=cid)
        cids = {slot.cid for slot in self._slots}
        slot = Slot(
            name,
            arch,
            next(one for one in _CIDS[_FIRST_CID - _CIDS.start :] if one not in cids) if cid is None else cid,
            cpu_count,
            memory_mib,
            tuple(egress),
            attests,
        )
        if len(self._slots) == MAX_ENCLAVES:
            raise ValueError(f"{name} is one enclave too many for this parent; expected at most {MAX_ENCLAVES}")
        if any(one.name == name for one in self._slots):
            raise ValueError(f"an enclave {name} is on this parent already; expected another name")
        if slot.cid in cids or slot.cid not in _CIDS:
            raise ValueError(
                f"cid {slot.cid} of {name} is {'taken' if slot.cid in cids else 'reserved'}; expected a free one of {_CIDS.start} to {_CIDS.stop - 1}"
            )
        self._check_ports(slot)
        self._slots.append(slot)
        return slot

    def _check_ports(self, slot: Slot) -> None:
        """A vsock port leads to one destination, for all enclaves of the parent. The ports are measured: only enclave.toml can change them."""
        taken = {one.vsock_port: (one.host, one.port) for other in self._slots for one in other.egress}
        for one in slot.egress:
            if one.vsock_port == _TAKEN_PORT:
                raise ValueError(
                    f"vsock_port {_TAKEN_PORT} of {slot.name} is the bundled vsock-proxy's; expected another one in [[egress]] of its enclave.toml"
                )
            host, port = taken.get(one.vsock_port, (one.host, one.port))
            if (host, port) != (one.host, one.port):
                raise ValueError(
                    f"vsock_port {one.vsock_port} of {slot.name} leads to {host}:{port} on this parent; expected another one in [[egress]] of its enclave.toml"
                )


def imported_slots(parent: IConstruct, is_same: Callable[[Any], bool]) -> EnclaveSlots:
    """What this parent shares with whatever else in the app is it, since it may be imported more than once."""
    everything: list[Any] = parent.node.root.node.find_all()
    return next((one.enclaves for one in everything if one is not parent and is_same(one)), EnclaveSlots())


class EnclaveParent(IConstruct, Protocol):
    """Implemented by EnclaveHost and EnclaveFleet."""

    @property
    def role(self) -> iam.IRole:
        """The instances' role: PCR3 is of its ARN, and what enclaves need of AWS is granted to it."""

    @property
    def association_targets(self) -> list[ssm.CfnAssociation.TargetProperty]:
        """Its instances, for Systems Manager: by id, or by a tag that every instance of a fleet has from its launch."""

    @property
    def enclaves(self) -> EnclaveSlots:
        """One ``EnclaveSlots()`` of its own, for its whole life."""
