"""Blobs by nitro-cli's names, AWS's init, and images that need no kernel."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from nitrokit.core.boot import BootError, Process
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.measurements import digest
from nitrokit.image import aws_init, cpio
from nitrokit.image.application import application
from nitrokit.image.build import build_image, read_manifest
from nitrokit.image.content import Spool
from nitrokit.image.errors import ImageError, KernelError
from nitrokit.image.kernel import find_kernel
from nitrokit.image.sources import ImageConfig, Workshop

PROGRAM = b"#!/opt/tool\n"


@pytest.fixture
def blobs(tmp_path):
    folder = tmp_path / "blobs"
    folder.mkdir()
    for name, content in (
        ("bzImage", b"kernel"),
        ("init", b"AWS's init"),
        ("nsm.ko", b"module"),
        ("cmdline", b"reboot=k panic=30 nomodules\n"),
    ):
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "image"
    (folder / "root/opt").mkdir(parents=True)
    (folder / "root/opt/tool").write_bytes(b"tool")
    (folder / "root/opt/tool").chmod(0o755)
    (folder / "enclave.toml").write_text(
        '[enclave]\nname = "x"\ninit = "aws"\n[rootfs]\npath = "root"\n[app]\ncommand = ["/opt/tool", "a b"]\nenvironment = {A = "b=c"}\n'
    )
    return folder


def _build(image, blobs, tmp_path):
    kernel = find_kernel({"NITROKIT_BLOBS": str(blobs)}, tmp_path, print)
    built = build_image(image, kernel=kernel, output=tmp_path / "x.eif", cache=tmp_path / "cache", progress=lambda _: None)
    return built, read_eif((tmp_path / "x.eif").read_bytes())


def test_the_ramdisks_are_what_awss_init_expects_and_are_measured(image, blobs, tmp_path):
    built, eif = _build(image, blobs, tmp_path)
    first, second = (dict(cpio.read(eif.read(ramdisk))) for ramdisk in eif.ramdisks)
    assert {path: (oct(node.mode), node.data) for path, node in first.items()} == {
        "dev": ("0o40755", b""), "init": ("0o100755", b"AWS's init"), "nsm.ko": ("0o100644", b"module"),
    }  # fmt: skip
    assert second["cmd"].data == b"/opt/tool\na b\n"
    assert second["env"].data.splitlines()[-1] == b"A=b=c"
    assert {"rootfs/dev", "rootfs/run", "rootfs/sys", "rootfs/var", "rootfs/proc", "rootfs/tmp", "rootfs/opt/tool"} <= set(second)
    assert set(path.split("/")[0] for path in second) == {"rootfs", "cmd", "env"}
    ramdisks = [cpio.write(first), cpio.write(second)]
    assert (eif.cmdline, built.measurements.pcr1) == (
        "reboot=k panic=30 nomodules",
        digest([b"kernel", b"reboot=k panic=30 nomodules", ramdisks[0]]),
    )
    assert built.measurements.pcr2 == digest([ramdisks[1]])
    (blobs / "nsm.ko").write_bytes(b"another module")
    assert [one.index for one in built.measurements.differences(_build(image, blobs, tmp_path)[0].measurements)] == [0, 1]
    (blobs / "init").unlink()
    with pytest.raises(KernelError) as caught:
        _build(image, blobs, tmp_path)
    assert caught.value.slug == "no-init"


def test_what_awss_init_does_not_heed_is_told_and_what_a_line_cannot_hold_refused():
    notes = list(aws_init.ignored(ImageConfig(user="app", working_directory="/srv")))
    assert [note.split(" is not")[0] for note in notes] == ["the image's USER app", "the image's WORKDIR /srv"]
    assert list(aws_init.ignored(ImageConfig(user="0", working_directory="/"))) == []
    with pytest.raises(ImageError) as caught:
        aws_init.application({}, Process(("/x", "two\nlines"), "/", 0, 0, (), {}, False, "never", None))
    assert caught.value.slug == "aws-init"


def test_blobs_are_of_the_images_architecture(blobs, tmp_path):
    arm = bytes(0x38) + b"ARM\x64" + bytes(0x200)
    with pytest.raises(KernelError) as caught:
        find_kernel({"NITROKIT_BLOBS": str(blobs)}, tmp_path, print, arch="aarch64")
    assert (caught.value.slug, "Image" in caught.value.what) == ("no-bzimage", True)
    (blobs / "Image").write_bytes(arm)
    assert find_kernel({"NITRO_CLI_BLOBS": str(blobs)}, tmp_path, print, arch="aarch64").bzimage == blobs / "Image"
    (blobs / "bzImage").write_bytes(arm)
    with pytest.raises(KernelError) as caught:
        find_kernel({"NITROKIT_BLOBS": str(blobs)}, tmp_path, print)
    assert caught.value.slug == "architecture"
    (blobs / "x86_64").mkdir()
    (blobs / "x86_64/bzImage").write_bytes(bytes(0x202) + b"HdrS")
    assert find_kernel({"NITROKIT_BLOBS": str(blobs)}, tmp_path, print).bzimage == blobs / "x86_64/bzImage"
    with pytest.raises(KernelError) as caught:
        find_kernel({"NITRO_CLI_BLOBS": "/nonexistent"}, tmp_path, print, arch="aarch64")
    assert caught.value.slug == "no-recipe"


def test_an_eif_that_was_built_elsewhere_needs_no_kernel(image, blobs, tmp_path):
    _build(image, blobs, tmp_path)
    given = tmp_path / "given"
    given.mkdir()
    (tmp_path / "x.eif").rename(given / "x.eif")
    (given / "enclave.toml").write_text('[enclave]\nname = "x"\n[eif]\npath = "x.eif"\n')
    environment = {**os.environ, "NITROKIT_BLOBS": "/nonexistent", "NITROKIT_CACHE": str(tmp_path / "cache")}

    def nitrokit(*arguments):
        command = [sys.executable, "-m", "nitrokit.cli", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    locked = nitrokit("lock", given)
    built = nitrokit("build", given, "--check", "-o", tmp_path / "y.eif")
    assert (built["kernel"], built["measurements"]) == (None, locked["measurements"])
    assert nitrokit("explain", given, given)["pcrs"] == {}
    purls = [one.get("purl", "") for one in json.loads((tmp_path / "y.cdx.json").read_text())["components"]]
    assert not any("python3.11" in purl for purl in purls)


def test_no_image_is_made_or_taken_whose_command_line_switches_the_emulation_on(image, blobs, tmp_path):
    (blobs / "cmdline").write_text("quiet nitrokit.emulated=1 panic=-1\n")
    with pytest.raises(BootError) as caught:
        _build(image, blobs, tmp_path)
    assert caught.value.code == "boot/emulation"
    given = tmp_path / "given"
    given.mkdir()
    (given / "enclave.toml").write_text('[enclave]\nname = "x"\n[eif]\npath = "x.eif"\n')
    for word, refused in (("nitrokit.emulated=1", True), ("nitrokit.emulated=10", False)):
        with (given / "x.eif").open("w+b") as file:
            write_eif(file, kernel=b"kernel", cmdline=f"quiet {word}", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
        with pytest.raises(BootError) if refused else contextlib.nullcontext():
            build_image(given, kernel=None, output=tmp_path / "y.eif", cache=tmp_path, progress=print)
        measured = subprocess.run(
            [sys.executable, "-m", "nitrokit.cli", "measure", given / "x.eif"], capture_output=True, text=True, check=True, timeout=60
        )
        assert ("local emulation" in measured.stderr) is refused
    assert (tmp_path / "y.eif").exists()


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_init_mounts_on_no_link_of_an_image(image, blobs, tmp_path, name):
    (image / "enclave.toml").write_text((image / "enclave.toml").read_text().replace('init = "aws"\n', ""))
    (image / f"root/{name}").symlink_to("opt")
    shop = Workshop(image, "x86_64", tmp_path, tmp_path, Spool(tmp_path / "spool", limit=1 << 20), print)
    with pytest.raises(ImageError) as caught:
        application(read_manifest(image), shop)
    assert (caught.value.slug, f"/{name}" in caught.value.what) == ("mount-point", True)
