"""vsock with one seam: the kernel's AF_VSOCK where there is /dev/vsock, else unix sockets below /run/vsock (an enclave run as a sandboxed process)."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

HYPERVISOR, PARENT = 0, 3
_ANY = 0xFFFFFFFF
_FOLDER = Path("/run/vsock")
_BACKLOG = 1024
_TIMEOUT = 10.0


def _kernel_has_vsock() -> bool:
    try:
        return stat.S_ISCHR(os.stat("/dev/vsock").st_mode)
    except OSError:
        return False


def connect(cid: int, port: int, *, timeout: float | None) -> socket.socket:
    """A connected stream. Raises OSError."""
    kernel = _kernel_has_vsock()
    connection = socket.socket(socket.AF_VSOCK if kernel else socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect((cid, port) if kernel else str(_FOLDER / str(cid) / str(port)))
    except BaseException:
        connection.close()
        raise
    return connection


def begin(cid: int, port: int) -> socket.socket:
    """A connection that has begun: writable when it stands; the kernel gives up after two seconds (net/vmw_vsock/af_vsock.c). Raises OSError."""
    if not _kernel_has_vsock():
        return connect(cid, port, timeout=_TIMEOUT)
    connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    connection.setblocking(False)
    if (number := connection.connect_ex((cid, port))) not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(number, os.strerror(number))
    return connection


def listen(port: int) -> socket.socket:
    """A listening stream socket on a port of this enclave. Raises OSError."""
    kernel = _kernel_has_vsock()
    listener = socket.socket(socket.AF_VSOCK if kernel else socket.AF_UNIX, socket.SOCK_STREAM)
    if kernel:
        listener.bind((_ANY, port))
    else:
        path = _FOLDER / "listen" / str(port)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o666)
    listener.listen(_BACKLOG)
    return listener
