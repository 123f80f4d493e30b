"""vsock with one seam: unix sockets where there is /run/vsock (an enclave run as a sandboxed process), else the kernel's AF_VSOCK.

An enclave never has /run/vsock: init mounts a new /run, which no app sees. Whether there is a /dev/vsock does not matter: an app that is root could take it away.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

HYPERVISOR, PARENT = 0, 3
_ANY = 0xFFFFFFFF
_FOLDER = Path("/run/vsock")
_BACKLOG = 1024
_TIMEOUT = 10.0


def is_sandboxed() -> bool:
    """Whether we are a sandboxed process, and no enclave."""
    return _FOLDER.is_dir()


def connect(cid: int, port: int, *, timeout: float | None) -> socket.socket:
    """A connected stream. Raises OSError."""
    sandboxed = is_sandboxed()
    connection = socket.socket(socket.AF_UNIX if sandboxed else socket.AF_VSOCK, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(str(_FOLDER / str(cid) / str(port)) if sandboxed else (cid, port))
    except BaseException:
        connection.close()
        raise
    return connection


def begin(cid: int, port: int) -> socket.socket:
    """A connection that has begun: writable when it stands; the kernel gives up after two seconds (net/vmw_vsock/af_vsock.c). Raises OSError."""
    if is_sandboxed():
        return connect(cid, port, timeout=_TIMEOUT)
    connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    connection.setblocking(False)
    if (number := connection.connect_ex((cid, port))) not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(number, os.strerror(number))
    return connection


def listen(port: int) -> socket.socket:
    """A listening stream socket on a port of this enclave. Raises OSError."""
    sandboxed = is_sandboxed()
    listener = socket.socket(socket.AF_UNIX if sandboxed else socket.AF_VSOCK, socket.SOCK_STREAM)
    if not sandboxed:
        listener.bind((_ANY, port))
    else:
        path = _FOLDER / "listen" / str(port)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o666)
    listener.listen(_BACKLOG)
    return listener
