"""The enclave kernel: given, nitro-cli's, or built from Debian's kernel source by the recipe in enclave_images/kernel, and cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nitrokit.image.errors import KernelError
from nitrokit.image.fetch import fetch_pool_file
from nitrokit.image.files import write_atomically
from nitrokit.image.unpack import Tree, unpack_deb

CMDLINE = "reboot=t panic=-1 pci=off nomodules console=ttyS0 random.trust_cpu=on quiet"
"""Like AWS's, but ending by triple fault: QEMU's nitro-enclave machine has no keyboard controller, where ``reboot=k`` hangs at times."""

_RECIPE = Path("enclave_images/kernel")
_NITRO_CLI_BLOBS = "/usr/share/nitro_enclaves/blobs"


@dataclass(frozen=True)
class KernelBlobs:
    """``nsm_module``: the NSM driver where the kernel lacks it (nitro-cli's blobs). ``source``: a sentence for people."""

    bzimage: Path
    cmdline: str
    nsm_module: Path | None
    source: str


def find_kernel(environment: Mapping[str, str], cache: Path, progress: Callable[[str], None], recipe: Path | None = None) -> KernelBlobs:
    """NITROKIT_BLOBS, else nitro-cli's blobs, else a cached or new build. Raises KernelError."""
    if named := environment.get("NITROKIT_BLOBS"):
        return _from_folder(Path(named), "NITROKIT_BLOBS")
    blobs = Path(environment.get("NITRO_CLI_BLOBS", _NITRO_CLI_BLOBS))
    if (blobs / "bzImage").is_file():
        return _from_folder(blobs, "nitro-cli's blobs")
    recipe = next((one for one in (recipe, _RECIPE) if one is not None and one.is_dir()), _RECIPE)
    pins = _read_recipe(recipe)
    key = hashlib.sha256((recipe / "recipe.json").read_bytes() + (recipe / pins["config"]).read_bytes()).hexdigest()
    image = cache / "kernel" / key / "bzImage"
    if image.is_file():
        return KernelBlobs(
            image, CMDLINE, None, f"kernel: {pins['package']} {pins['version']} built here before (cached); sha256 {_sha256(image)[:16]}…"
        )
    progress(f"building {pins['package']} {pins['version']}: about ten minutes on two cores, once")
    started = time.monotonic()
    write_atomically(image, [_build(recipe, pins, cache, progress)])
    return KernelBlobs(
        image,
        CMDLINE,
        None,
        f"kernel: {pins['package']} {pins['version']} built here in {time.monotonic() - started:.0f} s; sha256 {_sha256(image)[:16]}…",
    )


def _from_folder(folder: Path, name: str) -> KernelBlobs:
    image = folder / "bzImage"
    if not image.is_file():
        raise KernelError(
            "no-bzimage",
            f"{name} has no bzImage",
            got=str(folder),
            expected=f"{image}",
            do="name a folder with an enclave kernel, or unset the variable to build one",
        )
    cmdline = folder / "cmdline"
    module = folder / "nsm.ko"
    text = cmdline.read_text().strip() if cmdline.is_file() else CMDLINE
    return KernelBlobs(image, text, module if module.is_file() else None, f"kernel: {image} (from {name}); sha256 {_sha256(image)[:16]}…")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_recipe(recipe: Path) -> dict[str, Any]:
    try:
        pins: dict[str, Any] = json.loads((recipe / "recipe.json").read_text())
        return pins
    except (OSError, ValueError) as error:
        raise KernelError(
            "no-recipe",
            "no enclave kernel on this machine, and no recipe to build one",
            got=str(error),
            do="set NITROKIT_BLOBS to a folder with bzImage, or run in the project's folder",
        ) from error


def _build(recipe: Path, pins: dict[str, Any], cache: Path, progress: Callable[[str], None]) -> bytes:
    package = fetch_pool_file(pins["path"], pins["sha256"], cache=cache)
    with tempfile.TemporaryDirectory(prefix="nitrokit-kernel-") as folder:
        work = Path(folder)
        tree: Tree = {}
        unpack_deb(package, tree)
        archive = next(path for path in tree if path.endswith(".tar.xz"))
        (work / "linux.tar.xz").write_bytes(tree[archive].data)
        source, output = work / "source", work / "output"
        source.mkdir()
        output.mkdir()
        progress("unpacking the kernel source")
        _run(["tar", "-xf", str(work / "linux.tar.xz"), "-C", str(source), "--strip-components=1"], work)
        shutil.copy(recipe / pins["config"], output / ".config")
        for target in ("olddefconfig", "bzImage"):
            progress(f"make {target}")
            _run(["make", "-C", str(source), f"O={output}", f"-j{os.cpu_count() or 1}", target], work, pins["environment"])
        return (output / "arch/x86/boot/bzImage").read_bytes()


def _run(command: list[str], work: Path, environment: Mapping[str, str] | None = None) -> None:
    log = work / "log"
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode:
        tail = " | ".join(log.read_text(errors="replace").splitlines()[-5:])
        raise KernelError(
            "build-failed",
            "the kernel did not build",
            got=tail[:600],
            do="install build-essential bc flex bison libelf-dev libssl-dev xz-utils, and try again",
        )
