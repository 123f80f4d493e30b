"""The app: started as its user with its own environment, its output kept off the console where nobody reads it, its end reported."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from nitrokit.core.manifest import App

_BASE_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/usr/lib/nitrokit:/usr/lib/nitrokit-site",
    "PYTHONDONTWRITEBYTECODE": "1",
}


_FIRST_DELAY, _LAST_DELAY, _STABLE = 1.0, 30.0, 60.0
"""Seconds before the app is started again, doubled each time; an app that ran for a minute begins anew."""


class Supervisor:
    """Runs one app. ``sinks``: take its output, line by line; none drops it. ``sleep``: waits before the app is started again."""

    def __init__(
        self, app: App, *, sinks: Sequence[Callable[[bytes], None]], may_stay_root: bool, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._app = app
        self._sinks = sinks
        self._may_stay_root = may_stay_root
        self._sleep = sleep
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the app. Raises OSError, or KeyError for a user that the image does not have."""
        user = _user(self._app.user)
        self._process = subprocess.Popen(
            list(self._app.command),
            cwd=self._app.working_directory,
            env={**_BASE_ENVIRONMENT, **self._app.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **self._identity(*user),
        )
        assert self._process.stdout is not None
        threading.Thread(target=self._forward, args=(self._process.stdout,), daemon=True).start()

    def _identity(self, uid: int, gid: int) -> dict[str, Any]:
        """A sandboxed process has one user id alone and cannot change to another: the emulation may stay, real hardware never."""
        if uid == 0 or (self._may_stay_root and not _is_mapped(uid)):
            return {}
        return {"user": uid, "group": gid, "extra_groups": []}

    def state(self) -> dict[str, Any]:
        """For the control server: "running", or how the app ended. It asks the kernel nothing: only ``wait`` may reap the app."""
        if self._process is None:
            return {"app": "starting"}
        code = self._process.returncode
        return {"app": "running" if code is None else f"ended with {code}", "restarts": self._restarts}

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


def _user(name: str) -> tuple[int, int]:
    entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    return entry.pw_uid, entry.pw_gid


def _is_mapped(uid: int) -> bool:
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(inside <= uid < inside + count for inside, _, count in ranges)
