"""Killed at any moment, a build leaves no half file, and the next one clears away what the killed one was working on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nitrokit.image.files import replacing, scratch


@pytest.fixture
def image(tmp_path):
    """AWS's init keeps it quick; 400 MB of zeros take a while to write, and no room in the folder."""
    (tmp_path / "blobs").mkdir()
    for name in ("bzImage", "init"):
        (tmp_path / "blobs" / name).write_bytes(b"x")
    folder = tmp_path / "image"
    (folder / "root").mkdir(parents=True)
    (folder / "root/app").write_bytes(b"app")
    (folder / "root/app").chmod(0o755)
    with (folder / "root/zeros").open("wb") as file:
        file.truncate(400 << 20)
    (folder / "enclave.toml").write_text('[enclave]\nname = "x"\ninit = "aws"\n[rootfs]\npath = "root"\n[app]\ncommand = ["/app"]\n')
    return folder


def _start(image, tmp_path):
    environment = {**os.environ, "NITROKIT_BLOBS": str(tmp_path / "blobs"), "NITROKIT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "nitrokit.cli", "build", str(image), "-o", str(tmp_path / "out/x.eif")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_kill_9_leaves_nothing_half_written(image, tmp_path):
    left_behind = 0
    for delay in (0.0, 0.1, 0.25):
        process = _start(image, tmp_path)
        deadline = time.monotonic() + 60
        while not list((tmp_path / "cache").glob(".work-*/")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left_behind += len(list((tmp_path / "cache").glob(".work-*/")))
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir()), "a killed build's file has no name"
    assert left_behind, "no build was killed in the middle: this test tests nothing"
    assert _start(image, tmp_path).wait() == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.cdx.json", "x.eif"]
    assert not list((tmp_path / "cache").glob(".work-*/"))


def test_work_of_the_living_is_left_alone(tmp_path):
    abandoned = tmp_path / ".work-abandoned"
    (abandoned / "deep").mkdir(parents=True)
    with scratch(tmp_path) as first:
        (first / "file").touch()
        with scratch(tmp_path) as second:
            assert (first / "file").exists() and second != first
    assert sorted(path.name for path in tmp_path.iterdir()) == [".work-lock"]


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, unnamed):
    """Also where the file system has no files without names."""
    if not unnamed:
        monkeypatch.setattr(os, "O_TMPFILE", 1 << 30)
    path = tmp_path / "folder/x"
    for content in (b"one", b"two"):
        with replacing(path) as file:
            assert len(list(path.parent.glob(".x.*"))) == (0 if unnamed else 1)
            file.write(content)
        assert path.read_bytes() == content
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"three")
        raise KeyError
    assert [one.name for one in path.parent.iterdir()] == ["x"]
    assert path.read_bytes() == b"two"
    mask = os.umask(0o077)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
