"""A rebuild from source, real: what moved is told down to the file, without an EIF kept by anybody where git knows the locked source."""

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from nitrokit.core.reference_values import ReferenceValues
from nitrokit.gate.locks import read_images
from nitrokit.gate.rebuild import Workshop, compare_rebuild
from nitrokit.image.fetch import cache_dir
from nitrokit.image.lock import read_lock, record_measurements, write_reference_values

from .conftest import NEW

HELLO = Path(__file__).parents[3] / "enclave_images" / "hello"
ELF = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, 62, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    (folder / "bzImage").write_bytes(b"ker")
    cache = tmp_path_factory.mktemp("cache")
    for shared in ("sha256", "wheels", "bootstrap"):
        if (cache_dir(os.environ) / shared).is_dir():
            (cache / shared).symlink_to(cache_dir(os.environ) / shared)
    return Workshop({"NITROKIT_BLOBS": str(folder)}, cache, lambda _: None)


def _lock(folder, workshop):
    built = workshop.build(folder, folder.parent / "locked.eif")
    record_measurements(folder, built)
    return built.eif


def _compare(folder, workshop):
    (image,) = read_images([folder])
    return compare_rebuild(image, workshop)


def _commit(folder):
    quiet = {"cwd": folder, "check": True, "capture_output": True}
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "locked"]):
        subprocess.run(["git", *command], **quiet)


@pytest.fixture
def root_folder(tmp_path):
    """An image from a folder: the quickest to build."""
    folder = tmp_path / "images" / "tiny"
    (folder / "root" / "bin").mkdir(parents=True)
    (folder / "root" / "bin" / "app").write_bytes(ELF)
    (folder / "root" / "bin" / "app").chmod(0o755)
    (folder / "root" / "notes").write_text("one\n")
    (folder / "enclave.toml").write_text(
        '[enclave]\nname = "tiny"\narch = "x86_64"\n[rootfs]\npath = "root"\n[app]\ncommand = ["/bin/app"]\n'
    )
    return folder


def test_a_file_mode_and_a_texts_line_are_named_from_the_commit_that_locked_them(root_folder, workshop):
    _lock(root_folder, workshop)
    _commit(root_folder)
    assert _compare(root_folder, workshop).rule_id == "agrees"
    (root_folder / "root" / "notes").chmod(0o755)
    found = _compare(root_folder, workshop)
    assert found.rule_id == "rebuild-differs"
    assert any("mode" in line and "notes" in line and "0755" in line for line in found.details), found.details
    assert [line.split()[0] for line in found.details if line.startswith("PCR")] == ["PCR0", "PCR2"]
    assert "ramdisk1" in found.reason
    (root_folder / "root" / "notes").chmod(0o644)
    (root_folder / "root" / "notes").write_text("two\n")
    assert any("content" in line and "notes" in line for line in _compare(root_folder, workshop).details)


def test_an_eif_of_the_locked_image_serves_where_there_is_no_git(root_folder, workshop, tmp_path):
    eif = _lock(root_folder, workshop)
    (root_folder / "root" / "more").write_text("new")
    found = _compare(root_folder, workshop)
    assert any("--reference" in line for line in found.details)
    told = _compare(root_folder, Workshop(workshop.environment, workshop.cache, workshop.progress, [tmp_path / "nowhere", eif]))
    assert any("added" in line and "more" in line for line in told.details)


def test_a_changed_base_package_is_told_by_its_files(workshop, tmp_path):
    folder = tmp_path / "hello"
    shutil.copytree(HELLO, folder)
    eif = _lock(folder, workshop)
    lock = json.loads((folder / "packages.lock.json").read_text())
    lock["packages"] = [one for one in lock["packages"] if one["name"] != "libexpat1"]
    (folder / "packages.lock.json").write_text(json.dumps(lock))
    found = _compare(folder, Workshop(workshop.environment, workshop.cache, workshop.progress, [eif]))
    assert found.rule_id == "rebuild-differs"
    assert any("removed" in line and "libexpat" in line for line in found.details), found.details


def _tar(name, content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in ((name, content), ("bin/app", ELF)):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _layout(folder, layers):
    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (folder / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = {"config": blob(b'{"config": {"Cmd": ["/bin/app"]}}'), "layers": [blob(layer) for layer in layers]}
    entry = {**blob(json.dumps(manifest).encode()), "platform": {"os": "linux", "architecture": "amd64"}}
    (folder / "index.json").write_text(json.dumps({"manifests": [entry]}))


def test_reordered_layers_are_told_by_the_file_that_another_one_now_wins(workshop, tmp_path):
    folder = tmp_path / "layers"
    folder.mkdir()
    (folder / "enclave.toml").write_text('[enclave]\nname = "layers"\narch = "x86_64"\n[oci]\npath = "oci"\n')
    first, second = _tar("etc/who", b"first\n"), _tar("etc/who", b"second\n")
    _layout(folder / "oci", [first, second])
    _lock(folder, workshop)
    _commit(folder)
    _layout(folder / "oci", [second, first])
    found = _compare(folder, workshop)
    assert found.rule_id == "rebuild-differs"
    assert any("content" in line and "etc/who" in line for line in found.details), found.details


def test_a_source_that_is_the_old_one_a_torn_lock_and_a_source_that_does_not_build(root_folder, workshop):
    from datetime import UTC, datetime

    _lock(root_folder, workshop)
    lock = read_lock(root_folder)
    write_reference_values(root_folder, ReferenceValues(NEW).rolled_over(lock.measurements))
    (root_folder / "image.lock.json").write_text(json.dumps({"sections": {**lock.sections, "kernel": "0" * 64}}))
    assert _compare(root_folder, workshop).rule_id == "lock-torn"
    write_reference_values(root_folder, ReferenceValues(lock.measurements).rolled_over(NEW, datetime(2027, 1, 1, tzinfo=UTC)))
    old = _compare(root_folder, workshop)
    assert (old.rule_id, "retires on 2027-01-01" in old.reason) == ("rebuild-differs", True)
    (root_folder / "root" / "bin" / "app").write_bytes(b"#!/bin/nowhere\n")
    refused = _compare(root_folder, workshop)
    assert (refused.rule_id, "does not build" in refused.reason) == ("rebuild-differs", True)


def test_an_eif_that_was_built_elsewhere_needs_no_kernel_and_another_architecture_needs_its_own(workshop, tmp_path, root_folder):
    eif = _lock(root_folder, workshop)
    given = tmp_path / "given"
    given.mkdir()
    shutil.copy(eif, given / "x.eif")
    (given / "enclave.toml").write_text('[enclave]\nname = "given"\narch = "x86_64"\n[eif]\npath = "x.eif"\n')
    kernelless = Workshop({"NITROKIT_BLOBS": str(tmp_path / "nowhere")}, workshop.cache, workshop.progress)
    _lock(given, kernelless)
    assert _compare(given, kernelless).rule_id == "agrees"
    manifest = root_folder / "enclave.toml"
    manifest.write_text(manifest.read_text().replace("x86_64", "aarch64"))
    found = _compare(root_folder, workshop)
    assert (found.rule_id, "kernel/no-bzimage" in found.reason or "Image" in found.reason) == ("unreachable", True), found.reason


def test_without_its_pinned_files_nothing_is_compared_and_nothing_passes(workshop, tmp_path, monkeypatch):
    folder = tmp_path / "hello"
    shutil.copytree(HELLO, folder)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    empty = Workshop(workshop.environment, tmp_path / "empty", workshop.progress)
    assert _compare(folder, empty).rule_id == "unreachable"
