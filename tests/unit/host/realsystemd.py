"""A real systemd as the first process of a sandbox: what the agent writes for it is run by it."""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

SYSTEMD = "/usr/lib/systemd/systemd"


def unavailable():
    """Why there can be none on this machine; None: there can."""
    if os.geteuid() != 0:
        return "systemd in a sandbox needs root"
    for name in ("bwrap", "nsenter", "systemctl"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    if not Path(SYSTEMD).exists():
        return "systemd is not installed"
    return None if _cgroup2() else "no cgroup v2 hierarchy is mounted"


def _cgroup2():
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        if tail.startswith("cgroup2 "):
            own = next(one[3:] for one in Path("/proc/self/cgroup").read_text().splitlines() if one.startswith("0::"))
            return Path(head.split()[4] + own.rstrip("/"))
    return None


class Systemd:
    """``sandbox``: a bwrap command line with /usr, /etc, /run, /var; ``boot`` and ``cut`` as with a machine's power."""

    def __init__(self, sandbox, folder):
        self._sandbox = sandbox
        self._cgroup = _cgroup2() / f"nitrokit-{folder.name}"
        self._bwrap = None
        etc = folder / "etc/systemd/system"
        etc.mkdir(parents=True, exist_ok=True)
        # Without it this is a first boot, which enables all that the machine has installed.
        (folder / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        for name in ("basic", "sysinit", "multi-user", "network-online", "shutdown", "sockets"):
            (etc / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
        (etc / "default.target").write_text("[Unit]\nDescription=All\nWants=multi-user.target systemd-journald.service\n")
        # Amazon Linux's program is not here; a unit that fails every second would only take time.
        drop_in = folder / "etc/units/nitrokit-vsock-proxy-8001.service.d/program.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text("[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n")
        for name in ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"):
            (etc / name).symlink_to(f"/usr/lib/systemd/system/{name}")

    def boot(self):
        """Until systemd answers."""
        self._cgroup.mkdir(exist_ok=True)
        told, tell = os.pipe()
        command = [
            *self._sandbox,
            "--unshare-cgroup",
            "--unshare-net",
            "--as-pid-1",
            "--info-fd",
            str(tell),
            "--cap-add",
            "ALL",
            "--tmpfs",
            "/sys/fs",
        ]
        command += ["--dir", "/sys/fs/cgroup", "--bind", str(self._cgroup), "/sys/fs/cgroup", "--setenv", "container", "nitrokit"]
        # Nothing of the machine's own units: a boot takes a moment.
        command += ["--setenv", "SYSTEMD_UNIT_PATH", "/etc/systemd/system:/etc/units"]
        command += [SYSTEMD, "--system", "--log-level=warning", "--show-status=no"]
        enter = f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"'
        self._bwrap = subprocess.Popen(
            ["sh", "-c", enter, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(tell,),
        )
        os.close(tell)
        with os.fdopen(told) as answer:
            self._pid = json.loads(answer.read())["child-pid"]
        deadline = time.monotonic() + 30
        while "running" not in (state := self.run(["systemctl", "is-system-running"]).stdout) and "degraded" not in state:
            assert time.monotonic() < deadline, state
            time.sleep(0.05)

    def enter(self, command):
        """The command line that runs ``command`` beside systemd."""
        return ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--", *command]

    def run(self, command, **options):
        return subprocess.run(self.enter(command), capture_output=True, text=True, timeout=120, check=False, **options)

    def cut(self):
        """The power goes: nothing is stopped in an orderly way."""
        if self._bwrap is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._bwrap.wait()
        self._bwrap = None
        for folder in sorted(self._cgroup.glob("**/"), reverse=True):
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.02)
