"""lock, build --check and explain as a user has them, on an image that takes no time (AWS's init)."""

import json
import os
import shutil
import subprocess
import sys

import pytest

MANIFEST = '[enclave]\nname = "x"\ninit = "aws"\ncompression = "zstd"\n[rootfs]\npath = "tree"\n[app]\ncommand = ["/opt/tool"]\n'


@pytest.fixture
def image(tmp_path):
    for name in ("bzImage", "init"):
        (tmp_path / name).write_bytes(b"x")
    folder = tmp_path / "image"
    (folder / "tree/opt").mkdir(parents=True)
    (folder / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\none\n")
    (folder / "tree/opt/interpreter").write_bytes(b"interpreter")
    for name in ("tool", "interpreter"):
        (folder / "tree/opt" / name).chmod(0o755)
    (folder / "enclave.toml").write_text(MANIFEST)
    return folder


def _nitrokit(image, *arguments):
    environment = {**os.environ, "NITROKIT_BLOBS": str(image.parent), "NITROKIT_CACHE": str(image.parent / "cache")}
    command = [sys.executable, "-m", "nitrokit.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert "Traceback" not in done.stderr
    return done


def _locks(image):
    return {name: (image / name).read_bytes() for name in ("measurements.json", "image.lock.json")}


def test_lock_alone_changes_measurements_and_check_fails_when_they_differ(image, tmp_path):
    eif = tmp_path / "x.eif"
    assert _nitrokit(image, "build", image, "--check", "-o", eif).returncode == 2, "nothing is locked yet"
    assert _nitrokit(image, "lock", image).returncode == 0
    locked = _locks(image)
    assert _nitrokit(image, "build", image, "--check", "-o", eif).returncode == 0
    (image / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\ntwo\n")
    told = _nitrokit(image, "build", image, "--check", "--json", "-o", eif)
    assert told.returncode == 1
    assert "ramdisk 1" in json.loads(told.stdout)["differences"][0]
    assert _nitrokit(image, "build", image, "-o", eif).returncode == 0
    assert _nitrokit(image, "explain", image / "measurements.json", image).returncode == 1
    assert _locks(image) == locked
    assert _nitrokit(image, "lock", image, "--measurements-only").returncode == 0
    assert _locks(image) != locked
    assert _nitrokit(image, "build", image, "--check", "-o", eif).returncode == 0


def test_explain_compares_folders_eifs_and_locks_in_every_pair(image, tmp_path):
    """Down to the file where both sides have files, zstd or not; by section where one is a lock."""
    assert _nitrokit(image, "lock", image).returncode == 0
    _nitrokit(image, "build", image, "-o", tmp_path / "one.eif")
    other = tmp_path / "other"
    shutil.copytree(image, other)
    (other / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\ntwo\n")
    (other / "enclave.toml").write_text(MANIFEST.replace("zstd", "none"))
    _nitrokit(image, "lock", other)
    _nitrokit(image, "build", other, "-o", tmp_path / "two.eif")
    one_eif, two_eif, lock = tmp_path / "one.eif", tmp_path / "two.eif", image / "measurements.json"
    for one in (one_eif, lock):
        assert _nitrokit(image, "explain", one, image).returncode == 0
    for one, two in ((image, other), (image, two_eif), (one_eif, two_eif), (one_eif, other / "measurements.json"), (lock, two_eif)):
        done = _nitrokit(image, "explain", one, two, "--json")
        assert done.returncode == 1
        told = json.loads(done.stdout)
        (section,) = told["sections"]
        assert (set(told["pcrs"]), section["section"]) == ({"PCR0", "PCR2"}, "ramdisk1")
        if ".json" in f"{one}{two}":
            assert "a lock has no files" in section["note"]
        else:
            assert [(change["path"], change["kind"], change["diff"][1:]) for change in section["changes"]] == [
                ("rootfs/opt/tool", "content", [" #!/opt/interpreter", "-one", "+two"])
            ]
