"""The app: started as its user in its own root with its own environment and without privileges, its output kept off the console where nobody reads it, its end reported."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from nitrokit.core.boot import Process
from nitrokit.runtime import privileges
from nitrokit.runtime.logs import MAX_LINE
from nitrokit.runtime.readiness import is_ready

_FIRST_DELAY, _LAST_DELAY, _STABLE = 1.0, 30.0, 60.0
"""Seconds before the app is started again, doubled each time; an app that ran for a minute begins anew."""
_LAST_WORDS = 1.0
Output = Callable[[str, bytes], None]


class Supervisor:
    """Runs one app. ``root``: its root folder; ``extra``: environment that only init knows; ``output``: takes a stream's name and a line that the app printed there; None: nobody reads it.

    ``may_stay_root``: where its user does not exist for the kernel. ``say``: takes a line of init's own. ``sleep``: waits before the app is started again.
    """

    def __init__(
        self,
        process: Process,
        *,
        root: str,
        extra: Mapping[str, str],
        output: Output | None,
        may_stay_root: bool,
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._app = process
        self._root = root
        self._extra = extra
        self._output = output
        self._stays_root = may_stay_root and not privileges.is_mapped(process.uid)
        self._say = say
        self._sleep = sleep
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Start the app. Raises OSError or SubprocessError when it cannot be."""
        kept = subprocess.DEVNULL if self._output is None else subprocess.PIPE
        self._process = subprocess.Popen(
            list(self._app.command),
            env={**self._app.environment, **self._extra},
            stdin=subprocess.DEVNULL,
            stdout=kept,
            stderr=kept,
            start_new_session=True,
            # Popen changes folder and user before it could change the root: all of it is ours, in the one order that works.
            preexec_fn=self._become,
        )
        streams = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        self._readers = [threading.Thread(target=self._read, args=one, daemon=True) for one in streams.items() if one[1] is not None]
        for reader in self._readers:
            reader.start()

    def _become(self) -> None:
        """In the child: the app's root, folder and user, with no way to gain more. A sandboxed process has one user id alone: the emulation may stay, real hardware never."""
        if self._root != "/":
            os.chroot(self._root)
        os.chdir(self._app.working_directory)
        if self._stays_root:
            privileges.give_up(None)
            return
        for number in (1, 2):
            if stat.S_ISFIFO(os.fstat(number).st_mode):  # else its user could not open /dev/stdout
                os.fchown(number, self._app.uid, self._app.gid)
        privileges.give_up((self._app.uid, self._app.gid, self._app.groups))

    def forward(self, number: int) -> None:
        """Send a signal on to the app and all that it started."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

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
        """Wait for the app's end, start it again as enclave.toml says, and return the exit code of the last."""
        delay = _FIRST_DELAY
        while True:
            started = time.monotonic()
            code = self._wait_once()
            self._say(f"the app ended with {code}")
            if self._app.restart == "never" or (self._app.restart == "on-failure" and code == 0):
                return code
            delay = _FIRST_DELAY if time.monotonic() - started > _STABLE else delay
            delay = self._start_again(delay)

    def _start_again(self, delay: float) -> float:
        """Start the app after ``delay`` seconds, and later where that fails (an app that forked without end leaves no room at first); returns the next delay."""
        while True:
            self._sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)
            self._restarts += 1
            try:
                self.start()
            except (OSError, subprocess.SubprocessError, RuntimeError) as error:
                self._say(f"the app cannot be started again: {error}")
            else:
                return delay

    def _wait_once(self) -> int:
        """The app's exit code; orphans are reaped meanwhile, and what the app leaves behind ends with it."""
        assert self._process is not None
        while True:
            pid, status = os.wait()
            if pid == self._process.pid:
                break
        # PID 1 ends all that is left, as the end of a container does; as anything else (a test) only the app's own group.
        with suppress(ProcessLookupError):
            os.kill(-1 if os.getpid() == 1 else -pid, signal.SIGKILL)
        for reader in self._readers:
            reader.join(_LAST_WORDS)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode

    def _read(self, stream: str, source: IO[bytes]) -> None:
        assert self._output is not None
        with source:
            for line in iter(lambda: source.readline(MAX_LINE), b""):
                self._output(stream, line)
