"""Images without Python, built and locked by the commands and booted by QEMU: signed, compressed, on an init that keeps to AWS's contract. The enclave's own NSM says what was measured."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from nitrokit.emulation.nitro.hypervisor import Hypervisor
from nitrokit.emulation.nitro.qemu import QemuRunner, find_qemu

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def blobs(programs, tmp_path_factory):
    """A folder like nitro-cli's, with the tests' own init."""
    named = os.environ.get("NITROKIT_BLOBS")
    if not named or not (Path(named) / "bzImage").is_file():
        pytest.skip("no enclave kernel is named by NITROKIT_BLOBS")
    folder = tmp_path_factory.mktemp("blobs")
    (folder / "bzImage").symlink_to(Path(named).resolve() / "bzImage")
    shutil.copy(programs / "init", folder / "init")
    return folder


@pytest.fixture
def image(programs, tmp_path):
    """An image folder: a static program as its root file system, and a signing key."""
    folder = tmp_path / "image"
    (folder / "root/opt").mkdir(parents=True)
    shutil.copy(programs / "pcrs", folder / "root/opt/pcrs")
    key, now = ec.generate_private_key(ec.SECP384R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=90)).sign(key, SHA384())
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder


def _nitrokit(blobs, *arguments):
    environment = {**os.environ, "NITROKIT_BLOBS": str(blobs)}
    command = [sys.executable, "-m", "nitrokit.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _boot(eif, folder, pki):
    """What the enclave showed on its console (the emulation alone shows it) until it ended."""
    qemu = find_qemu(os.environ)
    if qemu is None:
        pytest.skip("no QEMU with the nitro-enclave machine")
    work = folder / "q"
    work.mkdir()
    hypervisor = Hypervisor(
        work,
        instance_id="i-0123456789abcdef0",
        role_arn=None,
        pki=pki,
        tls_authorities="",
        runner=QemuRunner(qemu),
        now=lambda: datetime.now(UTC),
    )
    try:
        hypervisor.allocate(cpu_count=2, memory_mib=1024)
        with eif.open("rb") as file:
            hypervisor.run(file, cpu_count=2, memory_mib=512, cid=None, name="image", debug=False)
        deadline = time.monotonic() + 60
        while hypervisor.describe() and time.monotonic() < deadline:
            time.sleep(0.2)
        return hypervisor.consoles()
    finally:
        hypervisor.close()


MANIFEST = """[enclave]
name = "x"
{}
[rootfs]
path = "root"
[signing]
certificate = "certificate.pem"
key = "key.pem"
[app]
command = ["/opt/pcrs", "one", "two words"]
environment = {{A = "b"}}
"""


@pytest.mark.parametrize(
    ("settings", "user", "folder"),
    [('init = "aws"', 0, "/"), ('compression = "zstd"', 7, "/opt")],
    ids=["AWS's contract", "nitrokit's init, zstd"],
)
def test_a_static_program_runs_and_attests_what_the_lock_says(image, blobs, pki, tmp_path, settings, user, folder):
    text = MANIFEST.format(settings) + ('user = "7"\nworking_directory = "/opt"\n' if user else "")
    (image / "enclave.toml").write_text(text)
    _nitrokit(blobs, "lock", image)
    built = _nitrokit(blobs, "build", image, "--check", "-o", tmp_path / "x.eif")
    locked = json.loads((image / "measurements.json").read_text())["Measurements"]
    assert built["measurements"] == {name: locked[name] for name in ("PCR0", "PCR1", "PCR2", "PCR8")}
    console = _boot(tmp_path / "x.eif", tmp_path, pki)
    said = [line for line in console.replace("\r", "").splitlines() if line]
    for name, value in built["measurements"].items():
        assert any(line.endswith(f"{name} {value}") for line in said), console
    for line in ("argument one", "argument two words", "A b", f"user {user}", f"folder {folder}"):
        assert any(one.endswith(line) for one in said), console
