"""How an enclave boots locally: by QEMU's nitro-enclave machine, or its root file system as a sandboxed process. Same EIF, same app."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nitrokit.core.boot import EMULATED
from nitrokit.core.eif import Eif
from nitrokit.emulation import children
from nitrokit.emulation.interfaces import EmulationError
from nitrokit.emulation.nitro.listeners import UnixListener
from nitrokit.emulation.nitro.service import PORT, GuestService
from nitrokit.image import cpio


@dataclass(frozen=True)
class Launch:
    """What a runner needs. ``folder``: the enclave's own; ``eif_path``: the hypervisor's copy; ``vsock``: the instance's folder of sockets."""

    folder: Path
    eif_path: Path
    eif: Eif
    module_id: str
    cid: int
    cpu_count: int
    memory_mib: int
    role_arn: str | None
    vsock: Path
    service: GuestService


class Closable(Protocol):
    def close(self) -> None: ...


class Machine(Protocol):
    """A running enclave."""

    console: Path

    def alive(self) -> bool: ...
    def pid(self) -> int: ...
    def stop(self) -> None: ...


class Runner(Protocol):
    sentence: str

    def start(self, launch: Launch) -> Machine: ...


def choose_runner(environment: Mapping[str, str], preference: str) -> Runner:
    """``auto``: QEMU where there is one with the machine, else a process. Raises EmulationError when the wanted one cannot be had."""
    from nitrokit.emulation.nitro.qemu import QemuRunner, find_qemu

    qemu = find_qemu(environment)
    if preference == "qemu" and qemu is None:
        raise EmulationError(
            "no-qemu", "no QEMU with the nitro-enclave machine", got=environment.get("NITROKIT_QEMU", "nothing named, none on PATH"),
            expected="qemu-system-x86_64 9.2 or newer with CONFIG_NITRO_ENCLAVE",
            do="set NITROKIT_QEMU, or use --runner process",
        )  # fmt: skip
    if qemu is not None and preference != "process":
        return QemuRunner(qemu)
    why = "chosen" if preference == "process" else "no QEMU with the nitro-enclave machine here (NITROKIT_QEMU, PATH)"
    return ProcessRunner(why)


class ProcessRunner:
    """The measured root file system under bubblewrap: own user, mount, pid and network namespaces. Only mounts are added, never a file to the tree."""

    def __init__(self, why: str) -> None:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise EmulationError("no-bwrap", "bubblewrap is not installed", expected="bwrap on PATH", do="apt-get install bubblewrap")
        self._bwrap = bwrap
        self.sentence = f"enclaves run as sandboxed processes ({why})"

    def start(self, launch: Launch) -> Machine:
        root = launch.folder / "root"
        for ramdisk in launch.eif.ramdisks:
            extract(launch.eif.read(ramdisk), root)
        own = launch.folder / "0"
        own.mkdir()
        listener = UnixListener(own / str(PORT), launch.service.serve)
        listening = launch.vsock / str(launch.cid)
        listening.mkdir(exist_ok=True)
        cmdline = launch.folder / "cmdline"
        cmdline.write_text(f"{launch.eif.cmdline} {EMULATED}\n")
        command = [
            self._bwrap, "--unshare-all", "--unshare-user", "--as-pid-1", "--die-with-parent", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--clearenv", "--hostname", "enclave",
            "--bind", str(root), "/", "--proc", "/proc", "--ro-bind", str(cmdline), "/proc/cmdline", "--dev", "/dev", "--tmpfs", "/sys", "--tmpfs", "/run", "--tmpfs", "/tmp",
            "--ro-bind", str(own), "/run/vsock/0", "--ro-bind", str(launch.vsock / "3"), "/run/vsock/3", "--bind", str(listening), "/run/vsock/listen", "--chdir", "/", "/init",
        ]  # fmt: skip
        return ProcessMachine(command, launch.folder / "console", [listener], listening)


class ProcessMachine:
    """A child process with its console file; ends with us."""

    def __init__(
        self,
        command: list[str],
        console: Path,
        listeners: Sequence[Closable],
        listening: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.console = console
        self._listeners = listeners
        self._listening = listening
        with console.open("wb") as output:
            self._process = children.start(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def alive(self) -> bool:
        return self._process.poll() is None

    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        if self.alive():
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
        for listener in self._listeners:
            listener.close()
        if self._listening is not None:
            shutil.rmtree(self._listening, ignore_errors=True)


def extract(archive: bytes | memoryview, root: Path) -> None:
    """Unpack a ramdisk below ``root``. Raises ImageError for what must not be in one."""
    for path, node in cpio.read(archive):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = stat.S_IFMT(node.mode)
        if not target.parent.resolve().is_relative_to(root.resolve()):
            raise EmulationError("escape", "a file of the image lies behind a link that leaves it", got=path)
        if kind == stat.S_IFLNK:
            target.unlink(missing_ok=True)
            target.symlink_to(node.data.decode())
        elif kind == stat.S_IFDIR:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(node.data)
            target.chmod(stat.S_IMODE(node.mode))
