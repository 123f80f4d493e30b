"""PID 1: prepares the enclave, tells the parent that it is up, serves control, runs the app, and ends the enclave with it."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nitrokit.core import boot
from nitrokit.core.nsm import NsmError, NsmProvider
from nitrokit.runtime import control, egress, endpoint, entropy, ingress, mounts, platform, refusals, vsock
from nitrokit.runtime.clock import Clock
from nitrokit.runtime.frames import serve
from nitrokit.runtime.logs import LogBuffer
from nitrokit.runtime.streams import Relay, allow_connections
from nitrokit.runtime.supervisor import Supervisor

ROOT = f"/{boot.ROOT}"
_SHARED = ("/dev", "/proc", "/sys", "/run/vsock")
"""What the app sees of init's world; the last is there in a sandboxed process alone."""
HEARTBEAT_PORT, HEARTBEAT = 9000, b"\xb7"
_RB_AUTOBOOT = 0x01234567
_LAST_LINES = 2.0


def main() -> None:
    """Never returns. Any failure is said on the console (which only debug mode and the emulation show) and ends the enclave."""
    code = 1
    try:
        code = run()
    except BaseException as error:
        with suppress(OSError):
            print(f"nitrokit init: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        _end(code)


def run() -> int:
    """Prepare, run the app, and return its exit code."""
    mounts.mount_all()
    mounts.open_console()
    mounts.load_nsm_module()
    mounts.raise_loopback()
    heartbeat()
    config = boot.decode(Path(f"/{boot.PATH}").read_bytes())
    emulated = platform.is_emulated()
    nsm = platform.nsm()
    logs = LogBuffer()
    threading.excepthook = functools.partial(tell_failure, logs.say)
    clock = _prepare(nsm, logs.say, may_fail=emulated)
    console = emulated or _is_debug(nsm)
    readable = console or config.process.logs
    if console:
        threading.Thread(target=_show, args=(logs,), daemon=True).start()
    relay = _network(config, logs.say)
    supervisor = Supervisor(
        config.process,
        root=ROOT,
        extra=endpoint.start(nsm),
        output=logs.append if readable else None,
        may_stay_root=emulated,
        say=logs.say,
    )
    answer = control.handler(nsm, lambda: {**supervisor.state(), **clock.state(), "connections": len(relay)}, logs if readable else None)
    # Before the app is there: a port that init needs is never the app's.
    threading.Thread(target=serve, args=(vsock.listen(control.PORT), answer, control.MAX_REQUEST), daemon=True).start()
    supervisor.forward_signals()
    supervisor.start()
    code = supervisor.wait()
    logs.settle(_LAST_LINES)
    return code


def _network(config: boot.Boot, say: Callable[[str], None]) -> Relay:
    """The app's root, and all the ways in and out of it; returns what joins them. Raises OSError."""
    hosts, resolver = (Path(mounts.within(ROOT, f"/etc/{name}")) for name in ("hosts", "resolv.conf"))
    mounts.share(ROOT, [folder for folder in _SHARED if os.path.isdir(folder)])
    with suppress(OSError):
        os.chmod("/dev/nsm", 0o666)  # the app attests too, and is not root
    with suppress(OSError):
        os.chmod("/dev/vsock", 0o666)
    allow_connections()
    relay = Relay()
    allowed = egress.start(config.egress, (Path("/run/hosts"), hosts), relay, say)
    resolver.write_text(refusals.RESOLVER)
    refusals.refuse_names(say)
    refusals.tell_ports(allowed, say)
    refusals.tell_addresses(say)
    ingress.start(config.ingress, relay, say)
    return relay


def _prepare(nsm: NsmProvider, say: Callable[[str], None], *, may_fail: bool) -> Clock:
    """Randomness and time, before anything needs them. ``may_fail``: a sandboxed process may set no clock. Raises NsmError, OSError."""
    clock = Clock(nsm)
    entropy.seed(nsm)
    try:
        clock.keep(say)
    except OSError:
        if not may_fail:
            raise
    return clock


def tell_failure(say: Callable[[str], None], failure: threading.ExceptHookArgs) -> None:
    """A thread ended by an error: the log says its type. Python would write it to the console, which nobody may read: that freezes an enclave, and the text may hold what concerns nobody."""
    say(f"a thread of init ended: {failure.exc_type.__name__}")


def heartbeat() -> None:
    """Tell the launcher on the parent that we are up: one byte there, the same back (aws-nitro-enclaves-sdk-bootstrap:init/init.c). Raises OSError."""
    with vsock.connect(vsock.PARENT, HEARTBEAT_PORT, timeout=30) as connection:
        connection.sendall(HEARTBEAT)
        if connection.recv(1) != HEARTBEAT:
            raise OSError("the parent did not answer the heartbeat")


def _is_debug(nsm: NsmProvider) -> bool:
    """In debug mode PCR0 is zero and somebody may read the console; else an unread console would freeze the enclave."""
    try:
        return not any(nsm.describe_pcr(0).value)
    except NsmError:
        return False


def _show(logs: LogBuffer) -> None:
    """Copy lines to the console, as far as somebody reads it: what it cannot take is dropped like all that is old, and nobody waits."""
    since = 0
    while True:
        answer = logs.read(since, control.MAX_WAIT, "console")
        since = answer["next"]
        with suppress(OSError):
            os.write(2, "".join(f"{line}\n" for line in answer["lines"]).encode(errors="replace"))


def _end(code: int) -> None:
    """Restart the machine, which ends an enclave; where we are a sandboxed process, exit."""
    os.sync()
    if os.getpid() == 1 and not vsock.is_sandboxed():
        ctypes.CDLL(None).reboot(_RB_AUTOBOOT)
    os._exit(code & 0xFF)
