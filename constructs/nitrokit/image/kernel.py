"""The enclave kernel: given, nitro-cli's, or built from Debian's kernel source by the recipe in enclave_images/kernel, and cached."""

from __future__ import annotations

import fcntl
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

from nitrokit.core.manifest import EifFile, Manifest
from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.errors import KernelError
from nitrokit.image.fetch import fetch_pool_file
from nitrokit.image.files import scratch, sha256_of, write_atomically
from nitrokit.image.unpack import Tree, unpack_deb

CMDLINE = "reboot=t panic=-1 pci=off nomodules console=ttyS0 random.trust_cpu=on quiet"
"""Like AWS's, but ending by triple fault: QEMU's nitro-enclave machine has no keyboard controller, where ``reboot=k`` hangs at times."""

_RECIPE, _RECIPE_ARCH = Path("enclave_images/kernel"), "x86_64"
_NITRO_CLI_BLOBS = "/usr/share/nitro_enclaves/blobs"


@dataclass(frozen=True)
class KernelBlobs:
    """``nsm_module``: the NSM driver where the kernel lacks it, ``init``: AWS's (both in nitro-cli's blobs alone). ``source``: a sentence for people."""

    bzimage: Path
    cmdline: str
    nsm_module: Path | None
    source: str
    init: Path | None = None


def kernel_for(
    manifest: Manifest, environment: Mapping[str, str], cache: Path, progress: Callable[[str], None], recipe: Path | None = None
) -> KernelBlobs | None:
    """The kernel that an image needs; None for an EIF that was built elsewhere. Raises KernelError."""
    return None if isinstance(manifest.source, EifFile) else find_kernel(environment, cache, progress, recipe, arch=manifest.arch)


def find_kernel(
    environment: Mapping[str, str], cache: Path, progress: Callable[[str], None], recipe: Path | None = None, *, arch: str = "x86_64"
) -> KernelBlobs:
    """NITROKIT_BLOBS, else nitro-cli's blobs, else a cached or new build (x86_64 alone). Raises KernelError."""
    if named := environment.get("NITROKIT_BLOBS"):
        return from_folder(Path(named), "NITROKIT_BLOBS", arch)
    blobs = Path(environment.get("NITRO_CLI_BLOBS", _NITRO_CLI_BLOBS))
    if (blobs / ARCHITECTURES[arch].kernel).is_file():
        return from_folder(blobs, "nitro-cli's blobs", arch)
    if arch != _RECIPE_ARCH:
        raise KernelError(
            "no-recipe", f"no enclave kernel for {arch} on this machine, and the recipe builds one for {_RECIPE_ARCH} alone",
            got="no blobs folder", do=f"set NITROKIT_BLOBS to a folder with {ARCHITECTURES[arch].kernel}, e.g. nitro-cli's blobs for {arch}",
        )  # fmt: skip
    recipe = next((one for one in (recipe, _RECIPE) if one is not None and one.is_dir()), _RECIPE)
    pins = _read_recipe(recipe)
    key = hashlib.sha256((recipe / "recipe.json").read_bytes() + (recipe / pins["config"]).read_bytes()).hexdigest()
    image = cache / "kernel" / key / "bzImage"
    image.parent.mkdir(parents=True, exist_ok=True)
    how = "built here before (cached)"
    with (image.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits for the first one's kernel
        if not image.is_file():
            progress(f"building {pins['package']} {pins['version']}: about ten minutes on two cores, once{_compiler_note(pins)}")
            started = time.monotonic()
            write_atomically(image, [_build(recipe, pins, cache, progress)])
            how = f"built here in {time.monotonic() - started:.0f} s"
    return KernelBlobs(image, CMDLINE, None, f"kernel: {pins['package']} {pins['version']} {how}; {_compare(image, pins)}")


def _compare(image: Path, pins: dict[str, Any]) -> str:
    """Whether the kernel is the one that the recipe names, in words."""
    got, expected = sha256_of(image), pins["bzimage"]["sha256"]
    if got == expected:
        return f"sha256 {got[:16]}…, as its recipe says"
    return f"sha256 {got[:16]}…, not the recipe's {expected[:16]}…{_compiler_note(pins)}: PCR0 and PCR1 are this kernel's own"


def _compiler_note(pins: dict[str, Any]) -> str:
    """Says it plainly when this machine's compiler is not the one that the recipe was recorded with: it is part of the kernel's bytes."""
    try:
        shown = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=False, env=_environment({})).stdout
    except OSError:
        return " (no gcc here)"
    here, there = (shown.splitlines() or ["unknown"])[0], pins["bzimage"]["compiler"]
    return "" if here == there else f" (the compiler here is {here}; the recipe's is {there})"


def _environment(pinned: Mapping[str, str]) -> dict[str, str]:
    """What the build sees: nothing of the caller's but PATH, since make takes flags, an architecture or a version from its environment."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C", **pinned}


def from_folder(folder: Path, name: str, arch: str) -> KernelBlobs:
    """Blobs by the names that nitro-cli has for them (aws-nitro-enclaves-cli:blobs), in a folder of the architecture's name where there is one. Raises KernelError."""
    folder = folder / arch if (folder / arch).is_dir() else folder
    image = folder / ARCHITECTURES[arch].kernel
    if not image.is_file():
        raise KernelError(
            "no-bzimage",
            f"{name} has no {image.name}",
            got=str(folder),
            expected=f"{image}",
            do="name a folder with an enclave kernel, or unset the variable to build one",
        )
    _check_architecture(image, arch)
    cmdline, module, init = folder / "cmdline", folder / "nsm.ko", folder / "init"
    text = cmdline.read_text(encoding="utf-8").strip() if cmdline.is_file() else CMDLINE
    return KernelBlobs(
        image,
        text,
        module if module.is_file() else None,
        f"kernel: {image} (from {name}); sha256 {sha256_of(image)[:16]}…",
        init if init.is_file() else None,
    )


def _check_architecture(image: Path, arch: str) -> None:
    """A kernel that says that it is another's (Linux Documentation/arch/x86/boot.rst, "HdrS"; arch/arm64/booting.rst, magic number)."""
    with image.open("rb") as file:
        head = file.read(0x210)
    found = {"x86_64": head[0x202:0x206] == b"HdrS", "aarch64": head[0x38:0x3C] == b"ARM\x64"}
    if any(found.values()) and not found[arch]:
        raise KernelError(
            "architecture", "the kernel is of another architecture than the image", got=str(image), expected=arch,
            do="correct arch in [enclave], or name other blobs by NITROKIT_BLOBS",
        )  # fmt: skip


def _read_recipe(recipe: Path) -> dict[str, Any]:
    try:
        pins: dict[str, Any] = json.loads((recipe / "recipe.json").read_text(encoding="utf-8"))
        return pins
    except (OSError, ValueError) as error:
        raise KernelError(
            "no-recipe",
            "no enclave kernel on this machine, and no recipe to build one",
            got=str(error),
            do="set NITROKIT_BLOBS to a folder with bzImage, or run in the project's folder",
        ) from error


def _build(recipe: Path, pins: dict[str, Any], cache: Path, progress: Callable[[str], None]) -> bytes:
    package = fetch_pool_file(pins["path"], pins["sha256"], cache=cache, progress=progress)
    # Source and objects take 2 GB, which a /tmp in memory may not have; make takes no path with a space.
    base = Path(tempfile.gettempdir()) / "nitrokit-kernel" if " " in str(cache.resolve()) else cache / "kernel"
    with scratch(base.resolve()) as work:
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
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=_environment(environment or {}), check=False)
    if done.returncode:
        tail = " | ".join(log.read_text(errors="replace").splitlines()[-5:])
        raise KernelError(
            "build-failed",
            "the kernel did not build",
            got=tail[:600],
            do="install build-essential bc flex bison libelf-dev libssl-dev xz-utils, and try again",
        )
