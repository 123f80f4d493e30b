"""What a fresh kernel needs before anything runs: mounts, the NSM driver where it is a module, the loopback interface."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_MOUNTS = (
    ("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC, ""),
    ("sysfs", "/sys", "sysfs", _NOSUID | _NODEV | _NOEXEC, ""),
    ("devtmpfs", "/dev", "devtmpfs", _NOSUID | _NOEXEC, "mode=0755"),
    ("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, "mode=1777"),
    ("tmpfs", "/run", "tmpfs", _NOSUID | _NODEV, "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=1777"),
)
_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    *((f"/dev/{name}", f"/proc/self/fd/{number}") for number, name in enumerate(("stdin", "stdout", "stderr"))),
)
"""What programs expect that were made for containers, and a fresh devtmpfs lacks."""
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_BIND, _REC = 4096, 16384
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def mount_all() -> None:
    """Mount what is not mounted yet (whoever runs us as a process has done so). Raises OSError."""
    for source, target, kind, flags, options in _MOUNTS:
        if os.path.ismount(target):
            continue
        if target == "/dev/shm":
            os.makedirs(target, exist_ok=True)
        _mount(source, target, flags, kind, options)
    for path, target in _LINKS:
        with suppress(FileExistsError):
            os.symlink(target, path)


def _mount(source: str, target: str, flags: int, kind: str | None = None, options: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


def share(root: str, folders: Sequence[str]) -> None:
    """Show ``folders`` below the app's root too; what sets the kernel is read-only there: a program named in it (core_pattern, uevent_helper) would run as init does. Raises OSError."""
    for folder in folders:
        target = within(root, folder)
        os.makedirs(target, exist_ok=True)
        _mount(folder, target, _BIND | _REC)
    for folder in filter(os.path.isdir, (f"{root}/proc/sys", f"{root}/sys")):
        _mount(folder, folder, _BIND)
        _mount(folder, folder, _BIND | _REMOUNT | _READ_ONLY | _NOSUID | _NODEV | _NOEXEC)


def within(root: str, path: str) -> str:
    """``path`` below the app's root, links followed: the image chooses them, and none leads init out of there. Raises OSError."""
    found = os.path.realpath(root + path)
    if not found.startswith(f"{root}/"):
        raise OSError(errno.ELOOP, f"{path} of the image is a link that leaves it")
    return found


def open_console() -> None:
    """Standard input, output and error, where the kernel found no console to give us (its ramdisk has no device nodes). Without them, the next files opened would take their numbers."""
    with suppress(OSError):
        while (descriptor := os.open("/dev/console", os.O_RDWR)) < 3:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, closefd=False)


def load_nsm_module(path: Path = Path("/nsm.ko")) -> None:
    """Load the NSM driver that nitro-cli's blobs bring along; nothing to do where the kernel has it. Raises OSError."""
    if not path.exists():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(_FINIT_MODULE[os.uname().machine], descriptor, b"", 0):
            number = ctypes.get_errno()
            raise OSError(number, f"finit_module {path}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def raise_loopback() -> None:
    """``lo`` is down in a fresh enclave. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        if not flags & _IFF_UP:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
