"""Guest memory and split virtqueues, as a vhost-user back end sees them (virtio 1.2 section 2.7)."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

_DESCRIPTOR = struct.Struct("<QIHH")
_NEXT, _WRITE = 1, 2


@dataclass(frozen=True)
class Region:
    """One mapped piece of guest memory."""

    guest: int
    size: int
    user: int
    view: memoryview


class GuestMemory:
    """Guest memory by guest-physical or by QEMU's own addresses."""

    def __init__(self) -> None:
        self._regions: list[Region] = []

    def set(self, table: list[tuple[int, int, int, int]], descriptors: list[int]) -> None:
        """``table``: guest address, size, user address, offset in the file; one file descriptor each, which are closed."""
        regions = []
        for (guest, size, user, offset), descriptor in zip(table, descriptors, strict=True):
            mapped = mmap.mmap(descriptor, offset + size)
            os.close(descriptor)
            regions.append(Region(guest, size, user, memoryview(mapped)[offset : offset + size]))
        self._regions = regions

    def by_guest(self, address: int, size: int) -> memoryview:
        """Raises ValueError for an address that the guest does not have."""
        for region in self._regions:
            if region.guest <= address and address + size <= region.guest + region.size:
                start = address - region.guest
                return region.view[start : start + size]
        raise ValueError("address outside of guest memory")

    def by_user(self, address: int) -> memoryview:
        """From a QEMU address to the end of its region."""
        for region in self._regions:
            if region.user <= address < region.user + region.size:
                return region.view[address - region.user :]
        raise ValueError("address outside of guest memory")


class Vring:
    """One queue. ``pop`` gives the next chain that the guest offers; ``push`` gives it back."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.size = 0
        self.next_available = 0
        self.kick: int | None = None
        self.call: int | None = None
        self._descriptors = self._available = self._used = memoryview(b"")
        self._available_index = self._used_index = memoryview(bytes(2)).cast("H")

    def set_addresses(self, descriptors: int, used: int, available: int) -> None:
        self._descriptors, self._used, self._available = (self._memory.by_user(address) for address in (descriptors, used, available))
        # By the machine's own 16-bit access: struct goes byte by byte, and the guest would see 0 between 255 and 256.
        self._available_index, self._used_index = (ring[2:4].cast("H") for ring in (self._available, self._used))

    @property
    def ready(self) -> bool:
        return self.size > 0 and len(self._available) > 0 and self.kick is not None

    def has_chain(self) -> bool:
        """Whether the guest offers a chain."""
        return self.ready and self._available_index[0] != self.next_available

    def pop(self) -> tuple[int, list[memoryview], list[memoryview]]:
        """(head, buffers to read, buffers to write). Raises ValueError for a chain that loops or leaves memory."""
        (head,) = struct.unpack_from("<H", self._available, 4 + 2 * (self.next_available % self.size))
        self.next_available = (self.next_available + 1) & 0xFFFF
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        index = head
        for _ in range(self.size):
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, 16 * index)
            (writable if flags & _WRITE else readable).append(self._memory.by_guest(address, length))
            if not flags & _NEXT:
                return head, readable, writable
            index = following
        raise ValueError("a descriptor chain loops")

    def push(self, head: int, written: int) -> None:
        """Give a chain back. The index goes last: the guest reads the entry when it sees it."""
        index = self._used_index[0]
        struct.pack_into("<II", self._used, 4 + 8 * (index % self.size), head, written)
        self._used_index[0] = (index + 1) & 0xFFFF

    def notify(self) -> None:
        if self.call is not None:
            os.write(self.call, (1).to_bytes(8, "little"))

    def close(self) -> None:
        for descriptor in (self.kick, self.call):
            if descriptor is not None:
                os.close(descriptor)
        self.kick = self.call = None
