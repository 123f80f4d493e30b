"""Enclaves under QEMU's nitro-enclave machine: the EIF is loaded and measured by QEMU, its kernel boots, its NSM is QEMU's device (QEMU docs "nitro-enclave")."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from nitrokit.core.boot import EMULATED
from nitrokit.emulation.nitro.runners import Launch, Machine, ProcessMachine
from nitrokit.emulation.nitro.vhost import VsockBackend

_NAME = "qemu-system-x86_64"
_PROBE_TIMEOUT = 20
_SYNCHRONOUS = ("-global", "virtio-mmio.ioeventfd=off")
"""With event fds QEMU looks into a queue by itself, when the driver is ready. Where the guest has put an NSM request there and not yet the buffer for its answer, QEMU gives the device up
(hw/virtio/virtio-nsm.c, handle_input), and the guest waits for ever: seen three times in some hundred boots. vsock is not QEMU's own, and keeps its event fds."""


def find_qemu(environment: Mapping[str, str]) -> Path | None:
    """NITROKIT_QEMU, else QEMU on PATH; None unless it starts and has the machine (Debian's own build leaves it out)."""
    named = environment.get("NITROKIT_QEMU") or shutil.which(_NAME, path=environment.get("PATH"))
    if not named or not Path(named).is_file():
        return None
    try:
        listed = subprocess.run([named, "-M", "help"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(named).resolve() if "nitro-enclave" in listed else None


class QemuRunner:
    """Boots an EIF. Always by TCG: /dev/kvm opens on machines where it does not work, and an enclave must boot."""

    def __init__(self, qemu: Path) -> None:
        self._qemu = qemu
        self.sentence = f"enclaves boot under QEMU's nitro-enclave machine ({qemu})"

    def start(self, launch: Launch) -> Machine:
        backend = VsockBackend(launch.folder / "vhost", guest_cid=launch.cid, vsock=launch.vsock, service=launch.service)
        machine = f"nitro-enclave,vsock=c,id={launch.module_id},parent-id={launch.module_id.split('-enc')[0]},x-option-roms=off"
        if launch.role_arn:
            machine += f",parent-role={launch.role_arn}"
        # The token is appended behind the measured command line: here QEMU does not measure it, real hardware has no such way.
        command = [
            str(self._qemu), "-L", str(self._qemu.parent), "-M", machine, "-accel", "tcg", "-cpu", "max", "-kernel", str(launch.eif_path), "-append", EMULATED,
            "-m", f"{launch.memory_mib}M", "-smp", str(launch.cpu_count), "-nodefaults", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
            "-chardev", f"socket,id=c,path={launch.folder / 'vhost'}", *_SYNCHRONOUS,
        ]  # fmt: skip
        # QEMU unpacks kernel and ramdisks into temporary files.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(launch.folder)}
        return ProcessMachine(command, launch.folder / "console", [backend], environment=environment)
