"""The hello image, built once for the room, with a kernel of three bytes: what is built here is not booted."""

import os
from pathlib import Path

import pytest

HELLO = Path(__file__).parents[3] / "enclave_images" / "hello"


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    from nitrokit.image.kernel import find_kernel

    folder = tmp_path_factory.mktemp("blobs")
    (folder / "bzImage").write_bytes(b"ker")
    return find_kernel({"NITROKIT_BLOBS": str(folder)}, folder, print)


@pytest.fixture(scope="session")
def built(kernel, tmp_path_factory):
    from nitrokit.image.build import build_image
    from nitrokit.image.fetch import cache_dir

    output = tmp_path_factory.mktemp("built") / "hello.eif"
    return build_image(HELLO, kernel=kernel, output=output, cache=cache_dir(os.environ), progress=lambda _: None)


@pytest.fixture(scope="session")
def trees(built):
    """Ramdisk 0 and ramdisk 1 as path → node."""
    from nitrokit.core.eif import read_eif
    from nitrokit.image import cpio

    eif = read_eif(built.eif.read_bytes())
    return [dict(cpio.read(eif.read(ramdisk))) for ramdisk in eif.ramdisks]
