"""Images on AWS's own init, for those without Python: ramdisk 0 is ``dev``, ``init`` and ``nsm.ko`` of nitro-cli's blobs, ramdisk 1 is ``rootfs/``, ``cmd`` and ``env``.

Formats: aws-nitro-enclaves-sdk-bootstrap:init/init.c (mounts, loads nsm.ko, heartbeat, reads both files, moves the root to /rootfs, executes, reboots when that ends) and
aws-nitro-enclaves-cli:enclave_build (one item on each line; the folders that a root always has). Packed by nitrokit, the measurements are not those of ``nitro-cli build-enclave``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nitrokit.core import boot
from nitrokit.image.cpio import file, folder
from nitrokit.image.errors import ImageError, KernelError
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.sources import ImageConfig
from nitrokit.image.unpack import Tree

_ROOT_FOLDERS = ("dev", "proc", "run", "sys", "tmp", "var")


def bootstrap(kernel: KernelBlobs) -> Tree:
    """Ramdisk 0. Raises KernelError where the blobs have no init."""
    if kernel.init is None:
        raise KernelError(
            "no-init", 'init = "aws" needs the init of nitro-cli\'s blobs', got=kernel.source, expected="a file init beside the kernel",
            do="install aws-nitro-enclaves-cli-devel, or set NITROKIT_BLOBS to a folder that has it",
        )  # fmt: skip
    tree: Tree = {"dev": folder(), "init": file(kernel.init.read_bytes(), 0o755)}
    if kernel.nsm_module is not None:
        tree["nsm.ko"] = file(kernel.nsm_module.read_bytes())
    return tree


def application(root: Tree, process: boot.Process) -> Tree:
    """Ramdisk 1. Raises ImageError for what a line cannot hold."""
    folders: Tree = {name: folder(0o1777 if name == "tmp" else 0o755) for name in _ROOT_FOLDERS}
    environment = [f"{name}={value}" for name, value in process.environment.items()]
    return {
        boot.ROOT: folder(),
        **{f"{boot.ROOT}/{path}": node for path, node in (folders | root).items()},
        "cmd": file(_lines(process.command)),
        "env": file(_lines(environment)),
    }


def ignored(config: ImageConfig) -> Iterator[str]:
    """Notes on what an image says and AWS's init does not heed."""
    if config.user not in ("", "0", "root", "0:0", "root:root"):
        yield f"the image's USER {config.user} is not heeded: AWS's init runs everything as root; nitrokit's does not"
    if config.working_directory not in ("", "/"):
        yield f"the image's WORKDIR {config.working_directory} is not heeded: AWS's init starts in /; nitrokit's does not"


def _lines(items: Sequence[str]) -> bytes:
    wrong = [item for item in items if "\n" in item]
    if wrong:
        raise ImageError("aws-init", "AWS's init takes one item on each line: none may hold a line's end", got=wrong[0][:80])
    return "".join(f"{item}\n" for item in items).encode(errors="surrogateescape")
