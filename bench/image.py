"""Building an image from a root file system of 1 GB, against `cpio | zstd -T0` and sha384sum of the result; and what ramdisk 1's compression costs and saves, booted under QEMU's TCG."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS, BOOTS = 3, 5
_BUILD = """
import resource, sys
from pathlib import Path
from nitrokit.image.build import build_image
from nitrokit.image.kernel import find_kernel
folder, blobs, output, cache = map(Path, sys.argv[1:])
kernel = find_kernel({"NITROKIT_BLOBS": str(blobs)}, cache, print)
built = build_image(folder, kernel=kernel, output=output, cache=cache, progress=lambda _: None)
print(built.measurements.pcr0.hex(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
Row = tuple[str, str, str]


def main() -> None:
    """Print a table; with --json a file too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the root file system")
    parser.add_argument("--folder", type=Path, help="where it is made (and removed again); default: the temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nitrokit-bench-", dir=options.folder) as name:
        folder = Path(name)
        rows = [*_building(folder, options.mib), *_booting(folder)]
    for what, value, beside in rows:
        print(f"{what:<58} {value:>14}   {beside}")
    if options.json:
        options.json.write_text(json.dumps([{"what": one, "value": two, "beside": three} for one, two, three in rows], indent=2) + "\n")


def make_tree(root: Path, mib: int) -> int:
    """Files as an image of an application has them: many small ones, some large; text-like and incompressible halves. The same for the same size. Returns the bytes."""
    dice, total, number = random.Random(0), 0, 0
    words = [dice.randbytes(6).hex().encode() for _ in range(2000)]
    text = b" ".join(dice.choices(words, k=1 << 18))
    noise = dice.randbytes(8 << 20)
    while total < mib << 20:
        size = min(int(dice.paretovariate(0.7) * 2000), 8 << 20)
        source = text if number % 2 else noise
        start = dice.randrange(max(1, len(source) - size))
        path = root / f"usr/share/d{number % 97}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source[start : start + size])
        total += min(size, len(source) - start)
        number += 1
    return total


def _building(folder: Path, mib: int) -> Iterator[Row]:
    image, blobs, cache = folder / "image", folder / "blobs", folder / "cache"
    blobs.mkdir()
    (blobs / "bzImage").write_bytes(b"kernel")
    (blobs / "init").write_bytes(b"init")
    size = make_tree(image / "root", mib)
    (image / "root/app").write_bytes(b"#!/app\n")
    (image / "root/app").chmod(0o755)
    files = sum(1 for path in image.rglob("*") if path.is_file())
    yield f"root file system: {files:,} files", f"{size >> 20} MiB", ""
    plain = "find . -print0 | sort -z | cpio --quiet -0 -o -H newc | {} > ../../plain && sha384sum ../../plain > /dev/null"
    for compression, packer in (("none", "cat"), ("zstd", f"zstd -q -T0 -{_level()}")):
        (image / "enclave.toml").write_text(
            f'[enclave]\nname = "x"\ninit = "aws"\ncompression = "{compression}"\n[rootfs]\npath = "root"\n[app]\ncommand = ["/app"]\n'
        )
        build = [sys.executable, "-c", _BUILD, str(image), str(blobs), str(folder / "x.eif"), str(cache)]
        shell = ["sh", "-c", plain.format(packer)]
        ours, theirs, memory = [], [], 0
        for _ in range(ROUNDS):  # one after the other in each round: what slows the machine slows all
            theirs.append(_seconds(shell, image / "root") if shutil.which("cpio") and shutil.which("zstd") else float("nan"))
            started = time.perf_counter()
            shown = subprocess.run(build, capture_output=True, text=True, check=True).stdout
            ours.append(time.perf_counter() - started)
            memory = max(memory, int(shown.split()[1]))
        mine, other = statistics.median(ours), statistics.median(theirs)
        ratio = f"{mine / other:.2f} × cpio | {packer}, sha384sum ({other:.1f} s)" if other == other else "no cpio or zstd here"
        yield f"build, {compression}", f"{mine:.1f} s", f"{size / 1e6 / mine:.0f} MB/s; {ratio}"
        yield f"build, {compression}: peak memory", f"{memory >> 10} MB", f"EIF {(folder / 'x.eif').stat().st_size >> 20} MiB"


def _booting(folder: Path) -> Iterator[Row]:
    """The hello image with ramdisk 1 in each form, to its heartbeat: Linux has unpacked both ramdisks then, and init has begun."""
    from nitrokit.emulation.nitro.qemu import find_qemu

    qemu, blobs = find_qemu(os.environ), os.environ.get("NITROKIT_BLOBS")
    if qemu is None or blobs is None:
        yield "boot", "", "no QEMU with the nitro-enclave machine, or no kernel (NITROKIT_QEMU, NITROKIT_BLOBS)"
        return
    forms = {"none": ("none", 0), **{f"zstd -{level}": ("zstd", level) for level in (1, 3, 12, 19)}}
    built = {name: _hello(folder, Path(blobs), name, *form) for name, form in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in forms}
    names = list(built)
    for number in range(BOOTS):  # each goes first once: what ran before warms or slows the machine
        for name in names[number:] + names[:number]:
            times[name].append(_boot(built[name][0], folder / f"boot-{number}-{name.split('-')[-1]}", qemu))
    base = statistics.median(times["none"])
    for name, (eif, seconds) in built.items():
        median = statistics.median(times[name])
        size = f"EIF {eif.stat().st_size / 1e6:.1f} MB, packed and measured in {seconds:.1f} s"
        yield f"hello, {name}: start to heartbeat", f"{median:.2f} s", f"{median / base:.2f} × none; {size}"


def _hello(folder: Path, blobs: Path, name: str, compression: str, level: int) -> tuple[Path, float]:
    """The EIF, and how long it took with everything cached."""
    from nitrokit.image import compression as module
    from nitrokit.image.build import build_image
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import find_kernel

    image, eif, usual = folder / f"hello {name}", folder / f"{name}.eif", module.LEVEL
    shutil.copytree(ROOT / "enclave_images" / "hello", image)
    manifest = image / "enclave.toml"
    manifest.write_text(manifest.read_text().replace('arch = "x86_64"', f'arch = "x86_64"\ncompression = "{compression}"'))
    kernel = find_kernel({"NITROKIT_BLOBS": str(blobs)}, folder, print)
    module.LEVEL = level or usual
    try:
        started = time.perf_counter()
        build_image(image, kernel=kernel, output=eif, cache=cache_dir(os.environ), progress=lambda _: None)
        return eif, time.perf_counter() - started
    finally:
        module.LEVEL = usual


def _boot(eif: Path, folder: Path, qemu: Path) -> float:
    """Seconds to the heartbeat."""
    from nitrokit.emulation.nitro.hypervisor import Hypervisor
    from nitrokit.emulation.nitro.pki import EmulatedPki
    from nitrokit.emulation.nitro.qemu import QemuRunner

    def now() -> datetime:
        return datetime.now(UTC)

    folder.mkdir()
    hypervisor = Hypervisor(
        folder, instance_id="i-0123456789abcdef0", role_arn=None, pki=EmulatedPki(now), tls_authorities="", runner=QemuRunner(qemu), now=now
    )
    try:
        hypervisor.allocate(cpu_count=2, memory_mib=1024)
        with eif.open("rb") as file:
            started = time.perf_counter()
            hypervisor.run(file, cpu_count=2, memory_mib=512, cid=None, name="bench", debug=False)
            return time.perf_counter() - started
    finally:
        hypervisor.close()


def _level() -> int:
    from nitrokit.image.compression import LEVEL

    return LEVEL


def _seconds(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
