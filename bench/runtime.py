"""An enclave under QEMU: from its EIF to healthy, beside a minimal static init; and ingress over vsock, beside socat in the same enclave."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nitrokit.core.eif import write_eif
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.emulation.nitro.qemu import find_qemu
from nitrokit.image import cpio
from nitrokit.image.build import build_image
from nitrokit.image.fetch import cache_dir
from nitrokit.image.kernel import KernelBlobs, find_kernel

ROOT = Path(__file__).parents[1]
INGRESS, SOCAT = 8080, 6001
RUNS, ROUND_TRIPS, CONNECTIONS, BYTES = 5, 1000, 100, 32 << 20
# An init that does nothing but what a launch waits for: the heartbeat.
MINIMAL = """
#include <sys/syscall.h>
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
struct { unsigned short family, zero; unsigned port, cid; unsigned char rest[4]; } parent = {40, 0, 9000, 3, {0}};
void _start(void) {
    char beat = (char)0xb7;
    long s = call(SYS_socket, 40, 1, 0);
    call(SYS_connect, s, (long)&parent, sizeof parent);
    call(SYS_write, s, (long)&beat, 1);
    call(SYS_read, s, (long)&beat, 1);
    for (;;) call(SYS_pause, 0, 0, 0);
}
"""


def parents() -> Any:
    """The tests' emulated parent: one way to boot an enclave, for both."""
    spec = importlib.util.spec_from_file_location("parents", ROOT / "tests/e2e/conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def minimal_eif(kernel: KernelBlobs, folder: Path) -> Path | None:
    """The smallest image that boots; None without a C compiler."""
    if shutil.which("cc") is None:
        return None
    (folder / "init.c").write_text(MINIMAL)
    command = [
        "cc",
        "-O2",
        "-static",
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-o",
        str(folder / "init"),
        str(folder / "init.c"),
    ]
    subprocess.run(command, check=True)
    init = b"".join(cpio.chunks({"init": cpio.file((folder / "init").read_bytes(), 0o755)}))
    path = folder / "minimal.eif"
    with path.open("w+b") as file:
        write_eif(
            file,
            kernel=kernel.bzimage.read_bytes(),
            cmdline=kernel.cmdline,
            ramdisks=[init, init],
            metadata={"ImageName": "minimal", "BuildMetadata": {"BuildTool": "bench"}},
        )
    return path


def boot(parent: Any, eif: Path, healthy: bool) -> tuple[float, float]:
    """Seconds from the launch to the heartbeat, and to a healthy app."""
    started = time.perf_counter()
    with eif.open("rb") as file:
        description = parent.hypervisor.run(file, cpu_count=2, memory_mib=512, cid=None, name=eif.stem, debug=False)
    heartbeat = time.perf_counter() - started
    guest = parents().Guest(parent.hypervisor, description)
    if healthy:
        guest.health(app="running", ready=True)
    took = time.perf_counter() - started
    parent.hypervisor.terminate(everything=True)
    return heartbeat, took


def measure_boot(parent: Any, eif: Path, minimal: Path | None) -> dict[str, float]:
    hello, least = [], []
    for _ in range(RUNS):
        hello.append(boot(parent, eif, True))
        if minimal is not None:
            least.append(boot(parent, minimal, False)[0])
    times = {
        "hello, heartbeat": min(one for one, _ in hello),
        "hello, healthy": min(one for _, one in hello),
        "hello, healthy, median": statistics.median(one for _, one in hello),
    }
    return times | ({"minimal init, heartbeat": min(least)} if least else {})


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def round_trips(guest: Any, port: int) -> list[float]:
    """Seconds that 64 bytes take there and back on an open connection."""
    times = []
    with guest.connect(port) as connection:
        connection.sendall(b"e")
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            connection.sendall(bytes(64))
            left = 64
            while left:
                left -= len(connection.recv(left))
            times.append(time.perf_counter() - started)
    return times


def connections(guest: Any, port: int) -> list[float]:
    """Seconds for a connection and a byte there and back."""
    times = []
    for _ in range(CONNECTIONS):
        started = time.perf_counter()
        with guest.connect(port) as connection:
            connection.sendall(b"ex")
            connection.recv(1)
            times.append(time.perf_counter() - started)
    return times


def throughput(guest: Any, port: int) -> float:
    """MB/s into the app."""
    started = time.perf_counter()
    with guest.connect(port) as connection:
        threading.Thread(target=lambda: (connection.sendall(b"c" + bytes(BYTES)), connection.shutdown(socket.SHUT_WR)), daemon=True).start()
        if int(read_to_end(connection)) != BYTES:
            sys.exit("bytes were lost")
    return BYTES / 1e6 / (time.perf_counter() - started)


def percentiles(times: list[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    ordered = sorted(times)
    return ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000


def measure_ingress(parent: Any, eif: Path) -> dict[str, dict[str, float]]:
    """Both ways in, in turns, in one enclave: the best of each, as noise only adds."""
    found: dict[str, dict[str, float]] = {"nitrokit": {}, "socat": {}}
    with parent.boot(eif, port=SOCAT) as guest:
        guest.health(ready=True)
        for _ in range(3):
            for name, port in (("nitrokit", INGRESS), ("socat", SOCAT)):
                values = {"MB/s": -throughput(guest, port)}
                for what, times in (("round trip", round_trips(guest, port)), ("connection", connections(guest, port))):
                    values[f"{what} p50 ms"], values[f"{what} p99 ms"] = percentiles(times)
                found[name] = {key: min(value, found[name].get(key, value)) for key, value in values.items()}
    return {name: {key: abs(value) for key, value in values.items()} for name, values in found.items()}


@contextlib.contextmanager
def started_parent() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="nb") as folder:
        parent = parents().Parent(Path(folder), EmulatedPki(lambda: datetime.now(UTC)))
        try:
            yield parent
        finally:
            parent.hypervisor.close()


def measure(note: Callable[[str], None]) -> dict[str, Any]:
    cache = cache_dir(os.environ)
    with tempfile.TemporaryDirectory() as work, started_parent() as parent:
        kernel = find_kernel(os.environ, cache, note)
        images = {name: Path(work) / f"{name}.eif" for name in ("hello", "relay")}
        for name, folder in (("hello", ROOT / "enclave_images/hello"), ("relay", ROOT / "bench/relay")):
            build_image(folder, kernel=kernel, output=images[name], cache=cache, progress=note)
        return {
            "boot": measure_boot(parent, images["hello"], minimal_eif(kernel, Path(work))),
            "ingress": measure_ingress(parent, images["relay"]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if find_qemu(os.environ) is None:
        print("skipped: no QEMU with the nitro-enclave machine (NITROKIT_QEMU, PATH)")
        return
    found = measure(lambda _: None)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    times = found["boot"]
    for name, value in times.items():
        print(f"{value:8.2f} s  {name}")
    if least := times.get("minimal init, heartbeat"):
        print(f"{times['hello, healthy'] / least:8.2f} ×  hello, healthy / minimal init, heartbeat")
    else:
        print("skipped: the minimal init (no C compiler)")
    ours, theirs = found["ingress"]["nitrokit"], found["ingress"]["socat"]
    for name, value in ours.items():
        print(f"{value:8.2f}    {name}: socat {theirs[name]:.2f}, {value / theirs[name]:.2f} ×")


if __name__ == "__main__":
    main()
