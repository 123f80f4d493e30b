"""systemd's part for the units of an emulated parent that run a program: started, waited for, watched, started again, stopped (systemd.service(5))."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

Spawn = Callable[[list[str], Mapping[str, str], int], tuple[subprocess.Popen[bytes], int]]
"""Command, environment and a descriptor for its output → the sandbox it runs in, and its own process id there. Both end with the thread that started them."""

_POLL = 0.1


class UnitError(Exception):
    """A unit that systemd could not start; the message is what systemctl prints."""


def parse_unit(text: str) -> dict[str, list[str]]:
    """All values of a unit file, by key; sections do not matter here."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, found, value = line.partition("=")
        if found and not line.startswith(("#", ";", "[")):
            values.setdefault(key.strip(), []).append(value.strip())
    return values


class ProgramUnit:
    """A unit of Type=notify or simple. ``notify``: where its program tells that it is ready; ``journal``: what it prints."""

    def __init__(self, name: str, text: str, spawn: Spawn, notify: Path, inside: str, journal: Path) -> None:
        self.name = name
        self._unit = parse_unit(text)
        self._spawn, self._inside, self._journal = spawn, inside, journal
        notify.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.settimeout(_POLL)
        self._notify.bind(str(notify))
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self.active = False
        self._main_pid: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def words(self, key: str) -> list[str]:
        """A key's values, split at spaces."""
        return [word for value in self._unit.get(key, []) for word in value.split()]

    def start(self, *, wait: bool) -> None:
        """Start; ``wait`` for READY=1, or for the first failure. Raises UnitError."""
        self._thread.start()
        if wait:
            self._settled.wait()
            if not self.active:
                raise UnitError(f"Job for {self.name}.service failed because the control process exited with error code.")

    def reload(self) -> None:
        """ExecReload=kill -HUP $MAINPID."""
        self._signal(signal.SIGHUP)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after TimeoutStopSec."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        self._thread.join(timeout=float(self._value("TimeoutStopSec", "90")))
        if self._thread.is_alive():
            self._signal(signal.SIGKILL)
            self._thread.join()
        self._notify.close()

    def kill(self) -> None:
        """As when the power goes."""
        self._stopping.set()
        self._signal(signal.SIGKILL)
        self._thread.join()
        self._notify.close()

    def _value(self, key: str, default: str) -> str:
        return self._unit.get(key, [default])[-1]

    def _signal(self, number: int) -> None:
        if self._main_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._main_pid, number)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                code = self._once()
                self._settled.set()
                restart = self._value("Restart", "no")
                if restart == "no" or (restart == "on-failure" and code == 0):
                    return
                self._stopping.wait(float(self._value("RestartSec", "0.1")))
        finally:
            self.active = False
            self._settled.set()

    def _once(self) -> int:
        environment = dict(value.split("=", 1) for value in self._unit.get("Environment", []))
        with self._journal.open("ab") as output:
            command = shlex.split(self._value("ExecStart", ""))
            process, self._main_pid = self._spawn(command, {**environment, "NOTIFY_SOCKET": self._inside}, output.fileno())
        if self._value("Type", "simple") == "simple":
            self._become_active()
        heard, limit = time.monotonic(), float(self._value("WatchdogSec", "inf"))
        while process.poll() is None:
            messages = self._messages()
            if "READY=1" in messages:
                self._become_active()
            heard = time.monotonic() if messages else heard
            if self.active and time.monotonic() - heard > limit:
                self._signal(signal.SIGABRT)
        self.active, self._main_pid = False, None
        return process.wait()

    def _messages(self) -> list[str]:
        try:
            return self._notify.recv(4096).decode().splitlines()
        except TimeoutError:
            return []

    def _become_active(self) -> None:
        self.active = True
        self._settled.set()
