"""What docs/runtime.md says happens in an enclave, seen to happen: under QEMU's nitro-enclave machine, with a real kernel, vsock and NSM."""

import base64
import secrets
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from nitrokit.cli.doctor import _qemu
from nitrokit.core.attestation import verify_document
from nitrokit.core.measurements import pcr3, pcr4

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(_qemu().state != "ok", reason="no QEMU with the nitro-enclave machine (NITROKIT_QEMU, PATH)"),
]
BOOTS = 20
ROLE, INSTANCE = "arn:aws:iam::123456789012:role/host", "i-0123456789abcdef0"


def _attested(guest, pki):
    """The PCRs of a fresh document, which verifies under the parent's PKI with our nonce."""
    nonce = secrets.token_bytes(32)
    answer = guest.ask(op="attest", nonce=base64.b64encode(nonce).decode())
    document = verify_document(base64.b64decode(answer["document"]), trust_anchor=pki.trust_anchor, time=datetime.now(UTC))
    assert document.nonce == nonce
    return document.pcrs


# NSM by hand: {"DescribePCR": {"index": N}} in CBOR by one ioctl (aws-nitro-enclaves-nsm-api), not by nitrokit's client.
DESCRIBE = """
import ctypes, fcntl, struct
result = {}
with open("/dev/nsm", "rb+", buffering=0) as device:
    for index in range(9):
        request = b"\\xa1\\x6bDescribePCR\\xa1\\x65index" + bytes([index])
        source, target = ctypes.create_string_buffer(request), ctypes.create_string_buffer(4096)
        fcntl.ioctl(device, 0xC0200A00, struct.pack("QQQQ", ctypes.addressof(source), len(request), ctypes.addressof(target), 4096))
        result[index] = target.raw.partition(b"\\x58\\x30")[2][:48].hex()
"""


def _expected(built):
    return {**dict.fromkeys(range(9), bytes(48)), **built.measurements.pcrs(), 3: pcr3(ROLE), 4: pcr4(INSTANCE)}


def test_twenty_boots_in_a_row_are_healthy_and_attest_what_was_built(make_parent, probe):
    built = probe()

    def boot(parent):
        with parent.boot(built.eif) as guest:
            pcrs = _attested(guest, parent.pki)
            assert {index: pcrs[index] for index in range(9)} == _expected(built)
        return time.monotonic()

    with ThreadPoolExecutor(2) as both:
        ends = list(both.map(lambda parent: [boot(parent) for _ in range(BOOTS // 2)], [make_parent(), make_parent()]))
    assert sum(map(len, ends)) == BOOTS


def test_inside_the_nsm_describes_the_same_pcrs(guest, probe):
    assert {int(index): bytes.fromhex(value) for index, value in guest.run(DESCRIBE).items()} == _expected(probe())


def test_a_signed_image_attests_its_certificate_in_pcr8(parent, probe, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=signer",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    signing = ("[app]\n", '[signing]\ncertificate = "certificate.pem"\nkey = "key.pem"\n\n[app]\n')
    built = probe(signing, files=(key, certificate))
    assert any(built.measurements.pcrs()[8])
    with parent.boot(built.eif) as guest:
        assert _attested(guest, parent.pki)[8] == built.measurements.pcrs()[8]
        assert {int(index): bytes.fromhex(value) for index, value in guest.run(DESCRIBE).items()} == _expected(built)


EXIT = "import os\nos._exit({})"
EAT = "kept = []\nwhile True:\n    kept.append(b'x' * (1 << 20))"


def test_a_killed_app_and_one_that_uses_up_the_memory_are_started_again_and_one_that_is_done_ends_the_enclave(parent, probe):
    with parent.boot(probe().eif, memory_mib=352) as guest:
        guest.end_app("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert guest.wait_for_line("the app ended with") == "nitrokit: the app ended with -9"
        guest.health(app="running", restarts=1)
        full = "try:\n    with open('/dev/shm/x', 'wb', buffering=0) as file:\n        while True: file.write(bytes(1 << 20))\nexcept OSError as error:\n    result = error.errno\n"
        assert guest.run(full + "import os\nos.unlink('/dev/shm/x')") == 28, "ENOSPC: half of the memory, not all"
        since = guest.logs()["next"]
        guest.end_app(EAT)
        assert guest.wait_for_line("the app ended with", since) == "nitrokit: the app ended with -9"
        guest.health(app="running", restarts=2)
        assert _attested(guest, parent.pki)[0]
        followed: list[str] = []
        follower = threading.Thread(target=lambda: followed.extend(guest.logs(guest.logs()["next"], wait=30)["lines"]))
        follower.start()
        time.sleep(0.5)
        guest.end_app(EXIT.format(0))
        follower.join(60)
        assert followed == ["nitrokit: the app ended with 0"]
        guest.wait_for_end()


# An app that is root, and what it could make the kernel run as init: none of it may be written.
WRITE = """
import errno
result = {}
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/1/mem", "/proc/1/environ"):
    try:
        open(path, "rb" if "/1/" in path else "wb").read(1)
        result[path] = "open"
    except OSError as error:
        result[path] = errno.errorcode[error.errno]
"""


def test_restart_never_ends_the_enclave_and_a_root_app_sets_nothing_of_the_kernel(parent, probe):
    with parent.boot(probe(('restart = "on-failure"', 'restart = "never"'), ('user = "nobody"', 'user = "root"')).eif) as guest:
        found = guest.run(WRITE)
        assert set(found.values()) <= {"EROFS", "ENOENT", "EACCES", "EPERM"}, found
        assert found["/proc/sys/vm/overcommit_memory"] == "EROFS"
        assert guest.run("import os\nresult = os.getuid()") == 0
        guest.end_app(EXIT.format(3))
        guest.wait_for_end()


def test_restart_always_starts_an_app_again_that_was_done(parent, probe):
    with parent.boot(probe(('restart = "on-failure"', 'restart = "always"')).eif) as guest:
        guest.end_app(EXIT.format(0))
        guest.wait_for_line("the app ended with 0")
        guest.health(app="running", restarts=1)


def test_a_flood_of_output_waits_for_nobody_and_drops_are_counted(guest):
    base, lines = guest.logs()["next"], 100_000
    started = time.monotonic()
    guest.run(f"import sys\nfor number in range({lines}): print('flood', number)\nsys.stdout.flush()")
    took = time.monotonic() - started
    guest.wait_for_line(f"flood {lines - 1}", base)
    answer = guest.logs(base)
    assert answer["lines"][0] == f"flood {answer['dropped']}"
    assert answer["dropped"] > lines // 2
    assert set(answer["streams"]) == {"stdout"}
    assert took < 60
    assert guest.logs(base + lines)["next"] == base + lines, "nothing more, nothing less"


ISOLATION = """
import ctypes, errno, os, signal, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call, *arguments):
    try:
        value = call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done" if value != -1 else errno.errorcode[ctypes.get_errno()]
def bind(family, kind, address):
    with socket.socket(family, kind) as one:
        one.bind(address)
result = {
    "trace init": attempt(libc.ptrace, 16, 1, 0, 0),
    "kill init": attempt(os.kill, 1, signal.SIGKILL),
    "init's memory": attempt(open, "/proc/1/mem", "rb"),
    "init's environment": attempt(lambda: open("/proc/1/environ", "rb").read()),
    "init's root": attempt(os.listdir, "/proc/1/root"),
    "control port": attempt(bind, socket.AF_VSOCK, socket.SOCK_STREAM, (0xFFFFFFFF, 5001)),
    "ingress port": attempt(bind, socket.AF_VSOCK, socket.SOCK_STREAM, (0xFFFFFFFF, 8080)),
    "name server": attempt(bind, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 53)),
    "raw socket": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 6),
    "become root": attempt(os.setuid, 0),
    "leave the root": attempt(os.chroot, "/tmp"),
    "mount": attempt(libc.mount, b"x", b"/tmp", b"tmpfs", 0, None),
    "user namespace": attempt(libc.unshare, 0x10000000),
    "set the clock": attempt(libc.stime, ctypes.byref(ctypes.c_long(0))) if hasattr(libc, "stime") else "EPERM",
    "host's files": sorted(set(os.listdir("/")) & {"enclave.json", "init", "rootfs"}),
    "devices": sorted(name for name in os.listdir("/dev") if stat.S_ISCHR(os.lstat("/dev/" + name).st_mode) and os.access("/dev/" + name, os.W_OK)),
    "groups": os.getgroups(),
}
"""


def test_an_app_cannot_reach_init_its_ports_its_files_or_the_devices(guest):
    found = guest.run(ISOLATION)
    devices = set(found.pop("devices"))
    assert devices <= {"full", "nsm", "null", "ptmx", "random", "tty", "urandom", "vsock", "zero"}, devices
    assert {"nsm", "vsock", "null"} <= devices
    assert (found.pop("host's files"), found.pop("groups")) == ([], [])
    assert found.pop("control port") == found.pop("ingress port") == "EADDRINUSE"
    assert found.pop("user namespace") in ("EPERM", "EINVAL")
    assert set(found.values()) <= {"EPERM", "EACCES"}, found
    guest.health(app="running")
