"""The core against others, in one run: verification against Go's hf/nitrite, measuring against one pass of openssl and against AWS's own Rust crate; memory on a large EIF."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, ChainCache, parse_document, verify_document
from nitrokit.core.eif import read_eif, write_eif

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "tests" / "vectors" / "attestation" / "worldcoin_bedrock__tests-542a3239.bin"
ROUNDS = 15


def main() -> None:
    """Print a table; with --json a file too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eif-mib", type=int, default=1024, help="size of the EIF that is measured")
    parser.add_argument("--large-mib", type=int, default=4096, help="size of the (sparse) EIF on which memory is taken")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nitrokit-bench-") as name:
        folder = Path(name)
        rows = [*_verification(folder), *_measuring(folder, options.eif_mib), *_memory(folder, options.large_mib)]
    for what, value, beside in rows:
        print(f"{what:<58} {value:>12}   {beside}")
    if options.json:
        options.json.write_text(
            json.dumps([{"what": what, "value": value, "beside": beside} for what, value, beside in rows], indent=2) + "\n"
        )


Row = tuple[str, str, str]


def _verification(folder: Path) -> list[Row]:
    data = DOCUMENT.read_bytes()
    at = parse_document(data).timestamp

    def verify(cache: ChainCache | None) -> None:
        verify_document(data, trust_anchor=AWS_NITRO_ROOT_G1, time=at, chain_cache=cache)

    same, fleet = ChainCache(), ChainCache()
    verify(same)

    def of_a_fleet() -> None:
        entries = fleet._entries  # noqa: SLF001 - as if the leaf were another enclave's
        for key in [key for key in entries if key[0] == "leaf"]:
            del entries[key]
        verify(fleet)

    of_a_fleet()
    nitrite = _go(folder)
    times: dict[str, list[float]] = {"cold": [], "another enclave of a fleet": [], "the same enclave": [], "nitrite": []}
    for _ in range(ROUNDS):  # one after the other in each round: what slows the machine slows all
        times["cold"].append(_seconds(lambda: verify(None), 20))
        times["another enclave of a fleet"].append(_seconds(of_a_fleet, 20))
        times["the same enclave"].append(_seconds(lambda: verify(same), 20))
        if isinstance(nitrite, Path):
            command = [str(nitrite), str(DOCUMENT), str(int(at.timestamp() * 1000)), "1"]
            times["nitrite"].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["median"])
    other = statistics.median(times["nitrite"]) if times["nitrite"] else None
    rows = [
        (
            f"verify, {name}",
            f"{statistics.median(found) * 1e3:.2f} ms",
            f"{other / statistics.median(found):.1f} × as fast as nitrite" if other else "",
        )
        for name, found in times.items()
        if name != "nitrite"
    ]
    return [*rows, ("verify, hf/nitrite (Go), one core", f"{other * 1e3:.2f} ms" if other else "skipped", "" if other else str(nitrite))]


def _measuring(folder: Path, mib: int) -> list[Row]:
    path = folder / "measured.eif"
    noise = random.Random(0).randbytes(32 << 20)
    with (folder / "ramdisk").open("wb") as ramdisk_file:
        for _ in range(mib // 32):
            ramdisk_file.write(noise)
    with path.open("w+b") as file, (folder / "ramdisk").open("rb") as ramdisk:
        pcr0 = write_eif(file, kernel=noise[: 8 << 20], cmdline="c", ramdisks=[noise[: 4 << 20], ramdisk], metadata=_metadata()).pcr0.hex()
    (folder / "ramdisk").unlink()
    crate = _rust(folder)

    def measure() -> None:
        with path.open("rb") as file:
            assert read_eif(file).measurements.pcr0.hex() == pcr0

    times: dict[str, list[float]] = {"nitrokit": [], "openssl": [], "crate": []}
    for _ in range(5):
        times["nitrokit"].append(_seconds(measure, 1))
        times["openssl"].append(_seconds(lambda: subprocess.run(["openssl", "dgst", "-sha384", path], capture_output=True, check=True), 1))
        if isinstance(crate, Path):
            told = json.loads(subprocess.run([crate, path, "1"], capture_output=True, check=True).stdout)
            assert told["pcr0"] == pcr0, "AWS's crate measures the same"
            times["crate"].append(told["median"])
    ours, openssl = statistics.median(times["nitrokit"]), statistics.median(times["openssl"])
    rows = [
        (f"measure an EIF of {mib} MiB", f"{ours:.2f} s", f"{ours / openssl:.2f} × one openssl pass (target ≤ 1.15)"),
        ("openssl dgst -sha384 of the same file", f"{openssl:.2f} s", ""),
    ]
    if not times["crate"]:
        return [*rows, ("aws-nitro-enclaves-image-format (Rust)", "skipped", str(crate))]
    other = statistics.median(times["crate"])
    return [*rows, ("aws-nitro-enclaves-image-format (Rust)", f"{other:.2f} s", f"nitrokit is {other / ours:.1f} × as fast (target ≥ 2)")]


def _memory(folder: Path, mib: int) -> list[Row]:
    """A sparse ramdisk: it has the size, and costs no disk."""
    path = folder / "large.eif"
    with (folder / "sparse").open("w+b") as ramdisk, path.open("w+b") as file:
        ramdisk.truncate(mib << 20)
        write_eif(file, kernel=b"k", cmdline="c", ramdisks=[b"init", ramdisk], metadata=_metadata())
    # VmHWM is the process's own; what getrusage tells begins with the size of who started it.
    code = "import sys; from nitrokit.core.eif import read_eif; read_eif(open(sys.argv[1], 'rb')); print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
    return [(f"peak memory reading an EIF of {mib} MiB", f"{peak / 1024:.0f} MB", "target ≤ 60 MB")]


def _metadata() -> dict[str, object]:
    build = dict.fromkeys(("BuildTime", "BuildTool", "BuildToolVersion", "OperatingSystem", "KernelVersion"), "x")
    return {"ImageName": "x", "ImageVersion": "1", "BuildMetadata": build, "DockerInfo": {}, "CustomMetadata": None}


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def _go(folder: Path) -> Path | str:
    """The nitrite program, or why there is none."""
    return _built(["go", "build", "-o", str(folder / "nitrite"), "."], ROOT / "bench" / "go", folder / "nitrite")


def _rust(folder: Path) -> Path | str:
    """The program around AWS's crate, or why there is none."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", folder / "target"))
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", str(target)]
    return _built(command, ROOT / "bench" / "rust", target / "release" / "nitrokit-bench")


def _built(command: list[str], where: Path, program: Path) -> Path | str:
    if shutil.which(command[0]) is None:
        return f"no {command[0]} on PATH"
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    return program if done.returncode == 0 else f"{command[0]} build failed: {done.stderr.strip().splitlines()[-1:]}"


if __name__ == "__main__":
    main()
