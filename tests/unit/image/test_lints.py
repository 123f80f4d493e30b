"""What `nitrokit build` says of real trees: this machine's own shell, package manager and loader, a program that gcc made, a key that openssl made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nitrokit.image.architecture import ARCHITECTURES, here

LOADER = f"/lib64/{ARCHITECTURES[here()].loader}" if here() == "x86_64" else f"/lib/{ARCHITECTURES[here()].loader}"


@pytest.fixture
def image(tmp_path):
    """``tree/`` to fill, on AWS's init, which is quick."""
    for name in ("bzImage", "Image", "init"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "image/tree/opt").mkdir(parents=True)
    return tmp_path / "image"


def _build(image, command, *options, more=""):
    (image / "enclave.toml").write_text(
        f'[enclave]\nname = "x"\narch = "{here()}"\ninit = "aws"\n[rootfs]\npath = "tree"\n[app]\ncommand = {json.dumps(command)}\n{more}'
    )
    environment = {**os.environ, "NITROKIT_BLOBS": str(image.parent), "NITROKIT_CACHE": str(image.parent / "cache")}
    arguments = [sys.executable, "-m", "nitrokit.cli", "build", str(image), "-o", str(image.parent / "x.eif"), *options]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture
def compiled(image):
    """A dynamically linked program."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    path = image / "tree/opt/app"
    subprocess.run(["gcc", "-x", "c", "-", "-o", str(path)], input=b"int main(void) { return 0; }", check=True)
    return path


def _put(image, source, target=None):
    path = image / "tree" / (target or source).lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(source).resolve(), path)
    return path


def test_a_program_whose_loader_is_missing_is_refused_and_says_which(image, compiled):
    done = _build(image, ["/opt/app"])
    assert done.returncode == 1
    assert f"/opt/app needs {LOADER}" in done.stderr
    assert "link the program statically" in done.stderr
    assert not (image.parent / "x.eif").exists()
    _put(image, LOADER)
    assert _build(image, ["/opt/app"]).returncode == 0


def test_a_script_without_its_interpreter_and_a_missing_command_are_refused(image):
    script = image / "tree/opt/run"
    script.write_text("#!/usr/bin/env python3\n")
    script.chmod(0o755)
    assert "/opt/run needs /usr/bin/env" in _build(image, ["/opt/run"]).stderr
    done = _build(image, ["/opt/missing"])
    assert (done.returncode, "an executable file at /opt/missing" in done.stderr) == (1, True)
    script.chmod(0o644)
    assert "an executable file at /opt/run" in _build(image, ["/opt/run"]).stderr, "not executable is not there"


def test_findings_name_the_file_the_reason_and_the_way_out(image, compiled):
    _put(image, LOADER)
    _put(image, "/bin/sh")
    _put(image, shutil.which("dpkg") or sys.executable, "/usr/bin/dpkg")
    (image / "tree/etc/ssl").mkdir(parents=True)
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(image / "tree/etc/ssl/server.key")], check=True, capture_output=True
    )
    (image / "tree/srv").mkdir()
    (image / "tree/srv/settings.py").write_text("KEY = 'AKIA" + "ABCDEFGHIJKLMNOP'\n")
    (image / "tree/srv/notes.txt").write_text("ASIA and AKIA are prefixes; -----BEGIN PUBLIC KEY-----\n")
    (image / "tree/srv/.env").write_text("A=b\n")
    with (image / "tree/srv/large").open("wb") as file:
        file.truncate(520 << 20)
    environment = '[app.environment]\nDB_PASSWORD = "x"\nHOST = "y"\n'
    done = _build(image, ["/opt/app"], "--json", more=environment)
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert [(one["id"], one["where"]) for one in findings] == [
        ("credentials", "environment variable DB_PASSWORD"), ("credentials", "etc/ssl/server.key"), ("credentials", "srv/.env"), ("credentials", "srv/settings.py"),
        ("package-manager", "usr/bin/dpkg"), ("root", "/opt/app"), ("shell", "bin/sh"), ("source", "enclave.toml"), ("size", "521 MiB"),
    ]  # fmt: skip
    by_id = {one["id"]: one for one in findings}
    assert "2,084 MiB of memory" in by_id["size"]["reason"]
    assert "KMS" in by_id["credentials"]["fix"]
    people = _build(image, ["/opt/app"], more=environment).stdout
    assert "  ! shell: bin/sh: whoever gets to run code finds a shell; start from a base without, or exclude it" in people
