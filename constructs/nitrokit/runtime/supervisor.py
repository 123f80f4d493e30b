"""The app: started as its user in its own root with its own environment, its output kept off the console where nobody reads it, its end reported."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from nitrokit.core.boot import Process
from nitrokit.runtime.readiness import is_ready

_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)
_FIRST_DELAY, _LAST_DELAY, _STABLE = 1.0, 30.0, 60.0
"""Seconds before the app is started again, doubled each time; an app that ran for a minute begins anew."""


class Supervisor:
    """Runs one app. ``root``: its root folder; ``extra``: environment that only init knows; ``sinks``: take its output, line by line; none drops it.

    ``sleep``: waits before the app is started again.
    """

    def __init__(
        self,
        process: Process,
        *,
        root: str,
        extra: Mapping[str, str],
        sinks: Sequence[Callable[[bytes], None]],
        may_stay_root: bool,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._app = process
        self._root = root
        self._extra = extra
        self._sinks = sinks
        self._may_stay_root = may_stay_root
        self._sleep = sleep
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the app. Raises OSError or SubprocessError when it cannot be."""
        self._process = subprocess.Popen(
            list(self._app.command),
            env={**self._app.environment, **self._extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Popen changes folder and user before it could change the root: all of it is ours, in the one order that works.
            preexec_fn=self._become,
        )
        assert self._process.stdout is not None
        threading.Thread(target=self._forward, args=(self._process.stdout,), daemon=True).start()

    def _become(self) -> None:
        """In the child: the app's root, folder and user, with no way to gain more. A sandboxed process has one user id alone: the emulation may stay, real hardware never."""
        if self._root != "/":
            os.chroot(self._root)
        os.chdir(self._app.working_directory)
        uid, gid = self._app.uid, self._app.gid
        if not (self._may_stay_root and not _is_mapped(uid)):
            os.setgroups(list(self._app.groups))
            os.setgid(gid)
            os.setuid(uid)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    def forward(self, number: int) -> None:
        """Send a signal on to the app and all that it started."""
        if self._process is not None and self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass

    def forward_signals(self) -> None:
        """What PID 1 is told concerns the app. The main thread must call it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda got, _: self.forward(got))

    def state(self) -> dict[str, Any]:
        """For the control server: "running", or how the app ended. It asks the kernel nothing: only ``wait`` may reap the app."""
        if self._process is None:
            return {"app": "starting", "ready": False, "restarts": 0}
        code = self._process.returncode
        ready = code is None and is_ready(self._app.ready_port)
        return {"app": "running" if code is None else f"ended with {code}", "ready": ready, "restarts": self._restarts}

    def wait(self) -> int:
        """Wait for the app's end, start it again as enclave.toml says, and return the exit code of the last. Raises OSError when it cannot be started again."""
        delay = _FIRST_DELAY
        while True:
            started = time.monotonic()
            code = self._wait_once()
            if self._app.restart == "never" or (self._app.restart == "on-failure" and code == 0):
                return code
            delay = _FIRST_DELAY if time.monotonic() - started > _STABLE else delay
            self._sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)
            self._restarts += 1
            self.start()

    def _wait_once(self) -> int:
        """The app's exit code; orphans are reaped meanwhile."""
        assert self._process is not None
        while True:
            pid, status = os.wait()
            if pid == self._process.pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return self._process.returncode

    def _forward(self, output: IO[bytes]) -> None:
        for line in iter(lambda: output.readline(1 << 16), b""):
            for sink in self._sinks:
                sink(line)


def _is_mapped(uid: int) -> bool:
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(inside <= uid < inside + count for inside, _, count in ranges)
