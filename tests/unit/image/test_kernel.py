"""The kernel recipe, with a source package whose "kernel" is a Makefile's: what make sees, what is kept, what is said."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import threading
from pathlib import Path

import pytest

from nitrokit.image import fetch as fetch_module
from nitrokit.image import kernel as kernel_module
from nitrokit.image.errors import KernelError
from nitrokit.image.kernel import find_kernel

# The "kernel" is what make's environment holds.
MAKEFILE = """
olddefconfig:
	test -e $(O)/.config
bzImage:
	test -z "$$REFUSE" || { echo "refused: no rule for this"; exit 1; }
	mkdir -p $(O)/arch/x86/boot
	{ echo "flags=$$KCFLAGS arch=$$ARCH user=$$KBUILD_BUILD_USER"; cat $(O)/.config; } > $(O)/arch/x86/boot/bzImage
	echo built >> LOG
"""
KERNEL = b"flags= arch= user=enclave\nCONFIG_X=y\n"


def _tar(files, mode):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A folder like enclave_images/kernel, its source package in a file mirror, and the cache beside it."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    makefile = MAKEFILE.replace("LOG", str(tmp_path / "log"))
    data = _tar({"./usr/src/linux-source.tar.xz": _tar({"linux/Makefile": makefile.encode()}, "w:xz")}, "w")
    package = b"!<arch>\n" + f"{'data.tar':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/linux.deb").write_bytes(package)
    fetch = fetch_module.fetch_pool_file
    monkeypatch.setattr(
        kernel_module, "fetch_pool_file", lambda *one, **two: fetch(*one, **two, mirrors=lambda: [(tmp_path / "mirror").as_uri()])
    )
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "config").write_text("CONFIG_X=y\n")
    _write(folder, sha256=hashlib.sha256(KERNEL).hexdigest(), package=hashlib.sha256(package).hexdigest())
    return folder


def _write(folder, *, sha256, package, compiler="gcc of another machine"):
    value = {
        "package": "linux-source", "version": "6", "path": "linux.deb", "sha256": package, "config": "config", "environment": {"KBUILD_BUILD_USER": "enclave"},
        "bzimage": {"sha256": sha256, "compiler": compiler},
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(value))


def _find(recipe, cache, progress=lambda _: None):
    return find_kernel({"NITRO_CLI_BLOBS": "/nonexistent"}, cache, progress, recipe)


def test_it_is_built_once_from_the_recipe_alone_and_kept(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("KCFLAGS", "-O3")
    monkeypatch.setenv("ARCH", "arm64")
    first, second = (_find(recipe, tmp_path / "cache") for _ in range(2))
    assert first.bzimage.read_bytes() == KERNEL
    assert (tmp_path / "log").read_text() == "built\n"
    assert "as its recipe says" in first.source
    assert "cached" in second.source
    assert not list((tmp_path / "cache/kernel").glob(".work-*/"))


def test_another_kernel_than_the_recipes_is_said_plainly_before_and_after(recipe, tmp_path):
    pins = json.loads((recipe / "recipe.json").read_text())
    _write(recipe, sha256="0" * 64, package=pins["sha256"])
    said: list[str] = []
    found = _find(recipe, tmp_path / "cache", said.append)
    assert "gcc of another machine" in said[0]
    assert "not the recipe's 0000" in found.source
    assert "PCR0 and PCR1" in found.source


def test_two_at_once_build_one(recipe, tmp_path):
    threads = [threading.Thread(target=_find, args=(recipe, tmp_path / "cache")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_cache_with_a_space_in_its_path_builds_too(recipe, tmp_path):
    assert _find(recipe, tmp_path / "my cache").bzimage.read_bytes() == KERNEL


def test_a_failed_build_says_what_make_said_and_leaves_nothing(recipe, tmp_path):
    pins = json.loads((recipe / "recipe.json").read_text())
    (recipe / "recipe.json").write_text(json.dumps({**pins, "environment": {"REFUSE": "1"}}))
    with pytest.raises(KernelError) as caught:
        _find(recipe, tmp_path / "cache")
    assert caught.value.code == "kernel/build-failed"
    assert "refused: no rule for this" in str(caught.value)
    assert not list((tmp_path / "cache/kernel").rglob("bzImage"))


RECIPE = Path(__file__).parents[3] / "enclave_images" / "kernel"


def test_the_projects_recipe_pins_all_that_a_kernels_bytes_depend_on():
    """Linux Documentation/kbuild/reproducible-builds.rst: timestamp, user, host, build number; no keys made at build time, no structure layout by chance, nothing of the build's folder."""
    pins = json.loads((RECIPE / "recipe.json").read_text())
    assert pins["version"] in pins["path"] and pins["package"] in pins["path"]
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in (pins["sha256"], pins["bzimage"]["sha256"]))
    assert pins["bzimage"]["compiler"].startswith("gcc (Debian ") and pins["bzimage"]["binutils"]
    environment = pins["environment"]
    needed = {
        "KBUILD_BUILD_TIMESTAMP",
        "KBUILD_BUILD_USER",
        "KBUILD_BUILD_HOST",
        "KBUILD_BUILD_VERSION",
        "SOURCE_DATE_EPOCH",
        "LC_ALL",
        "TZ",
    }
    assert set(environment) == needed
    assert environment["KBUILD_BUILD_TIMESTAMP"] == f"@{environment['SOURCE_DATE_EPOCH']}"
    config = (RECIPE / pins["config"]).read_text().splitlines()
    assert "# CONFIG_LOCALVERSION_AUTO is not set" in config, "else the version is the source folder's git state"
    by_chance = (
        "MODULES",
        "MODULE_SIG",
        "SYSTEM_TRUSTED_KEYS",
        "RANDSTRUCT_FULL",
        "RANDSTRUCT_PERFORMANCE",
        "INITRAMFS_SOURCE",
        "IKHEADERS",
        "DEBUG_INFO",
    )
    assert not [line for line in config if re.match(rf"CONFIG_({'|'.join(by_chance)})=[^n]", line)]


def test_the_kernel_that_is_given_to_the_tests_is_the_recipes():
    """Built twice by the recipe in different folders, when it was recorded; here only compared."""
    named = Path(os.environ.get("NITROKIT_BLOBS", "/nonexistent")) / "bzImage"
    if not named.is_file():
        pytest.skip("no kernel is named by NITROKIT_BLOBS")
    pins = json.loads((RECIPE / "recipe.json").read_text())
    if hashlib.sha256(named.read_bytes()).hexdigest() != pins["bzimage"]["sha256"]:
        pytest.skip("NITROKIT_BLOBS names a kernel of its own")
    locked = json.loads((RECIPE.parent / "hello/image.lock.json").read_text())["sections"]
    assert locked["kernel"] == pins["bzimage"]["sha256"]
