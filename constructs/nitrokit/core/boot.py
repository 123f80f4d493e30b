"""``/enclave.json``: what PID 1 runs, resolved at build time and measured in PCR2. Written by the image builder, read in the enclave.

Named tuples, because dataclasses import much, and an enclave's start waits for it.
It is JSON, and not enclave.toml itself, because an image of Docker's has its command, user and environment elsewhere, and names of users stand in its own /etc/passwd.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nitrokit.errors import NitrokitError

PATH = "enclave.json"
ROOT = "rootfs"
"""Where the app's root file system lies in ramdisk 1, as in images of nitro-cli."""
EMULATED = "nitrokit.emulated=1"
"""The word of the kernel command line that switches the local emulation on, which adds it at launch."""


class BootError(NitrokitError):
    """A boot configuration that no builder of ours wrote."""

    area = "boot"


class Process(NamedTuple):
    """``command`` (absolute path first) runs in ``working_directory`` as ``uid``:``gid`` and ``groups`` with ``environment`` alone. The rest as in enclave.toml's [app]."""

    command: Sequence[str]
    working_directory: str
    uid: int
    gid: int
    groups: Sequence[int]
    environment: Mapping[str, str]
    logs: bool
    restart: str
    ready_port: int | None


class Boot(NamedTuple):
    """``egress``: (host, port, vsock port) of each allowed destination; ``ingress``: (TCP port, vsock port)."""

    process: Process
    egress: Sequence[tuple[str, int, int]]
    ingress: Sequence[tuple[int, int]]


def is_emulated(cmdline: str) -> bool:
    """Whether a kernel command line switches the emulation on."""
    return EMULATED in cmdline.split()


def require_real(cmdline: str) -> None:
    """No image has the switch: on real hardware it would print to the parent what the app prints, and would be measured as if nothing were wrong. Raises BootError."""
    if is_emulated(cmdline):
        raise BootError(
            "emulation", "the image's kernel command line switches the local emulation on", got=cmdline[:200], expected=f"no {EMULATED}",
            do="take the word out of the blobs' cmdline file; the emulation adds it by itself",
        )  # fmt: skip


def encode(boot: Boot) -> bytes:
    """Canonical JSON."""
    return (json.dumps({**boot._asdict(), "process": boot.process._asdict()}, sort_keys=True, indent=1) + "\n").encode()


def decode(data: bytes) -> Boot:
    """Raises BootError."""
    try:
        value: dict[str, Any] = json.loads(data)
        egress = tuple((str(host), int(port), int(vsock)) for host, port, vsock in value["egress"])
        ingress = tuple((int(port), int(vsock)) for port, vsock in value["ingress"])
        return Boot(Process(**value["process"]), egress, ingress)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BootError("config", f"/{PATH} is not what `nitrokit build` writes", got=repr(error)[:120]) from error
