"""Randomness at boot: an enclave has no devices to gather it from but the NSM (aws-nitro-enclaves-sdk-bootstrap issues 5 and 15: programs that waited for it for ever)."""

from __future__ import annotations

import fcntl
import os
import struct

from nitrokit.core.nsm import NsmProvider

_RNDADDENTROPY = 0x40085203  # linux/random.h: _IOW('R', 0x03, int[2])
_WANTED = 512


def seed(nsm: NsmProvider, device: str = "/dev/random") -> bool:
    """Give the kernel ``_WANTED`` bytes of the NSM's randomness, and credit for them; where only root's root may do that, mix them in. Returns whether credit was given. Raises NsmError, OSError."""
    data = b""
    while len(data) < _WANTED:
        data += nsm.get_random()
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(descriptor, _RNDADDENTROPY, struct.pack("ii", 8 * len(data), len(data)) + data)
        except OSError:
            os.write(descriptor, data)
            return False
        return True
    finally:
        os.close(descriptor)
