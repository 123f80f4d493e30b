"""On the fake parent's PYTHONPATH as sitecustomize: AF_VSOCK as unix sockets, and a kill at the moment that /var/fake/crash names ("command number")."""

import os
import signal
import socket
import subprocess
import sys

_real = socket.socket


class _Vsock(_real):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        self._vsock = family == socket.AF_VSOCK
        super().__init__(socket.AF_UNIX if self._vsock else family, type, proto, fileno)

    def connect(self, address):
        super().connect(f"/run/vsock/{address[0]}_{address[1]}" if self._vsock else address)


socket.socket = _Vsock  # type: ignore[misc]
_CRASH, _EVENTS = "/var/fake/crash", "/var/fake/events"
seen = []  # type: list[str]


def _event(what):
    """Before everything that changes the disk, and before each program: a kill between two of these finds what a kill at the second one finds."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    seen.append(what)
    if os.path.exists(_EVENTS):
        with open(_EVENTS, "a") as file:
            file.write(f"{command} {len(seen)} {what}\n")
    try:
        with open(_CRASH) as file:
            wanted = file.read().split()
    except FileNotFoundError:
        return
    if wanted == [command, str(len(seen))]:
        _unlink(_CRASH)
        os.kill(os.getpid(), signal.SIGKILL)


def _before(owner, name, what):
    function = getattr(owner, name)

    def wrapped(*arguments, **named):
        if what != "mkdir" or not os.path.isdir(arguments[0]):  # what is there already changes nothing
            _event(f"{what} {arguments[0] if arguments else ''}")
        return function(*arguments, **named)

    setattr(owner, name, wrapped)


_unlink = os.unlink
if os.path.exists(_EVENTS) or os.path.exists(_CRASH):
    for _name in ("replace", "unlink", "mkdir"):
        _before(os, _name, _name)
    _before(subprocess, "run", "program")
