"""Sizing: which parent instance holds which enclaves, and what its allocator must reserve."""

from nitrokit.core.hugepages import SizingError, enclave_memory, pool_memory
from nitrokit.core.sizing.allocation import MAX_ENCLAVES, Allocation, EnclaveNeeds, allocate, choose
from nitrokit.core.sizing.instance_types import Catalogue, InstanceType, catalogue_from_ec2, family, parse_catalogue

__all__ = [
    "MAX_ENCLAVES",
    "Allocation",
    "Catalogue",
    "EnclaveNeeds",
    "InstanceType",
    "SizingError",
    "allocate",
    "catalogue_from_ec2",
    "choose",
    "enclave_memory",
    "family",
    "parse_catalogue",
    "pool_memory",
]
