"""/dev/nsm: one ioctl with two buffers (aws-nitro-enclaves-nsm-api:src/driver/mod.rs)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

from nitrokit.core.nsm import NsmError
from nitrokit.core.nsm.messages import MAX_RESPONSE

DEVICE = "/dev/nsm"
_IOCTL = 0xC0200A00  # _IOWR(0x0A, 0, struct of two iovecs: 32 bytes)


def present() -> bool:
    """Whether there is an NSM device."""
    try:
        return stat.S_ISCHR(os.stat(DEVICE).st_mode)
    except OSError:
        return False


def exchange(request: bytes) -> bytes:
    """Hand a request to the device and return its response. Raises NsmError."""
    source = ctypes.create_string_buffer(request, len(request))
    target = ctypes.create_string_buffer(MAX_RESPONSE)
    message = bytearray(struct.pack("QQQQ", ctypes.addressof(source), len(request), ctypes.addressof(target), MAX_RESPONSE))
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise NsmError(
            "no-device",
            "cannot open the NSM device",
            got=str(error),
            expected=DEVICE,
            do="run inside an enclave, with the NSM driver loaded",
        ) from error
    try:
        fcntl.ioctl(descriptor, _IOCTL, message, True)
    except OSError as error:
        slug = "request-size" if error.errno == errno.EMSGSIZE else "device"
        raise NsmError(slug, "the NSM device refused the request", got=str(error)) from error
    finally:
        os.close(descriptor)
    size = struct.unpack("QQQQ", message)[3]
    return target.raw[:size]
