"""What docs/runtime.md says happens in an enclave, seen to happen: under QEMU's nitro-enclave machine, with a real kernel, vsock and NSM."""

import base64
import contextlib
import secrets
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from nitrokit.cli.doctor import _qemu
from nitrokit.core.attestation import verify_document
from nitrokit.core.measurements import pcr3, pcr4
from nitrokit.emulation.cloud.tls import TlsAuthority
from nitrokit.emulation.nitro.listeners import UnixListener

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(_qemu().state != "ok", reason="no QEMU with the nitro-enclave machine (NITROKIT_QEMU, PATH)"),
]
BOOTS = 20
HOST, ROLE, INSTANCE = "allowed.example.com", "arn:aws:iam::123456789012:role/host", "i-0123456789abcdef0"


@pytest.fixture(scope="module")
def parent(make_parent):
    return make_parent()


@pytest.fixture(scope="module")
def guest(parent, probe):
    """One enclave for all tests that leave it as it was."""
    with parent.boot(probe().eif) as guest:
        yield guest


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
    with parent.boot(probe().eif) as guest:
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


@pytest.mark.parametrize(("policy", "code"), [("never", 3), ("always", 0)])
def test_restart_is_never_or_always(parent, probe, policy, code):
    with parent.boot(probe(('restart = "on-failure"', f'restart = "{policy}"')).eif) as guest:
        guest.end_app(EXIT.format(code))
        if policy == "never":
            guest.wait_for_end()
        else:
            guest.wait_for_line(f"the app ended with {code}")
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


def test_ready_is_what_takes_connections_and_ingress_says_when_nothing_does(guest):
    base = guest.logs()["next"]
    assert guest.health()["ready"] is False
    with guest.connect(8080) as early:
        assert early.recv(1) == b""
    assert "ingress: the app takes no connection on port 8080" in guest.wait_for_line("ingress", base)
    guest.run(ECHO)
    guest.health(ready=True)
    with guest.connect(8080) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: connection.recv(100), b"")) == b"hello"


# Echoes; what it got before an error or an end is kept for the test to see.
ECHO = """
import builtins, socket, threading
def echo(connection, seen):
    try:
        while data := connection.recv(1 << 16):
            seen[0] += len(data)
            connection.sendall(data)
        seen[1] = "end"
    except OSError as error:
        seen[1] = type(error).__name__
    connection.close()
def serve(listener):
    while True:
        connection, _ = listener.accept()
        seen = [0, None]
        builtins.seen.append(seen)
        threading.Thread(target=echo, args=(connection, seen), daemon=True).start()
if not hasattr(builtins, "seen"):
    builtins.seen = []
    threading.Thread(target=serve, args=(socket.create_server(("127.0.0.1", 8080), backlog=512),), daemon=True).start()
"""


def test_ingress_that_is_cut_ends_on_both_sides_and_the_next_works(guest):
    guest.run(ECHO)
    for _ in range(5):
        with guest.connect(8080) as connection:
            connection.sendall(bytes(300_000))
            connection.recv(1000)  # and then it is gone, with bytes under way both ways
    guest.health(connections=0)
    assert all(how for _, how in guest.run("import builtins\nresult = builtins.seen"))
    payload = secrets.token_bytes(2_000_000)
    with guest.connect(8080) as connection:
        threading.Thread(target=lambda: (connection.sendall(payload), connection.shutdown(socket.SHUT_WR)), daemon=True).start()
        assert b"".join(iter(lambda: connection.recv(1 << 16), b"")) == payload


def test_hundreds_of_ingress_connections_at_once(guest):
    guest.run(ECHO)
    connections = [guest.connect(8080) for _ in range(300)]
    assert guest.health()["connections"] >= 300
    for number, one in enumerate(connections):
        one.sendall(b"%06d" % number)
    assert [int(one.recv(6)) for one in connections] == list(range(300))
    for one in connections:
        one.close()
    guest.health(connections=0)


@contextlib.contextmanager
def _behind(guest, port, handle):
    """The parent's proxy on a vsock port."""
    listener = UnixListener(guest.vsock / "3" / str(port), lambda one: threading.Thread(target=handle, args=(one,), daemon=True).start())
    try:
        yield
    finally:
        listener.close()


SEND = """
import socket
with socket.create_connection(("allowed.example.com", 443)) as connection:
    try:
        for _ in range(100): connection.sendall(bytes(100_000))
        result = connection.recv(1).hex() or "end"
    except OSError as error:
        result = type(error).__name__
"""


def test_egress_that_the_parent_cuts_ends_in_the_app_and_the_next_works(guest):
    def cut(connection):
        with connection:
            connection.recv(100_000)

    def whole(connection):
        with connection:
            size = 0
            while size < 10_000_000:
                size += len(connection.recv(1 << 16))
            connection.sendall(b"\x07")

    with _behind(guest, 8001, cut):
        for _ in range(3):
            assert guest.run(SEND) in ("end", "ConnectionResetError", "BrokenPipeError")
    guest.health(connections=0)
    with _behind(guest, 8001, whole):
        assert guest.run(SEND) == "07"


FETCH = """
import ssl, urllib.request
try:
    context = ssl.create_default_context(cadata={pem!r})
    result = urllib.request.urlopen("https://allowed.example.com/", context=context, timeout=30).read().decode()
except OSError as error:
    result = str(error)
"""


def _tls(context):
    def answer(connection):
        with contextlib.suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as tls:
            tls.settimeout(30)
            tls.recv(1 << 16)
            tls.sendall(b"HTTP/1.0 200 OK\r\n\r\nunchanged")

    return answer


def test_allowed_egress_is_the_apps_own_tls_and_a_parent_that_answers_itself_is_found_out(guest):
    authority = TlsAuthority()
    with _behind(guest, 8001, _tls(authority.server_context(HOST))):
        assert guest.run(FETCH.format(pem=authority.pem)) == "unchanged"
    for context in (TlsAuthority().server_context(HOST), authority.server_context("other.example.com")):
        assert isinstance(context, ssl.SSLContext)
        with _behind(guest, 8001, _tls(context)):
            assert "CERTIFICATE_VERIFY_FAILED" in guest.run(FETCH.format(pem=authority.pem))


ATTEMPT = """
import errno, socket, time
started = time.monotonic()
try:
    with socket.create_connection({address!r}, timeout=20) as connection:
        result = connection.recv(1).hex() or "end"
except OSError as error:
    result = errno.errorcode.get(error.errno, type(error).__name__)
result = [result, time.monotonic() - started < 3]
"""


@pytest.mark.parametrize(
    ("address", "result", "line"),
    [
        (("www.example.com", 443), ["gaierror"], "www.example.com is refused"),
        (("192.0.2.1", 443), ["ENETUNREACH"], "attempts to reach an address are refused"),
        (("169.254.169.254", 80), ["ENETUNREACH"], "attempts to reach an address are refused"),
        (("2001:db8::1", 443), ["ENETUNREACH"], "attempts to reach an address are refused"),
        ((HOST, 80), ["ECONNREFUSED"], ":80 is refused"),
        (("absent.example.com", 443), ["end", "ECONNRESET"], "absent.example.com:443 cannot be reached: the parent's vsock port 8002"),
    ],
)
def test_what_is_not_allowed_or_not_there_fails_at_once_with_a_line(guest, address, result, line):
    base = guest.logs()["next"]
    found, at_once = guest.run(ATTEMPT.format(address=address))
    assert at_once
    assert found in result
    assert guest.wait_for_line(line, base)


def test_a_shell_attests_by_the_endpoint(guest):
    command = 'wget -q -O - --header "Authorization: Bearer $NITROKIT_TOKEN" --post-data "{\\"nonce\\": \\"bm9uY2U=\\"}" $NITROKIT_ENDPOINT/v1/attest'
    answer = guest.run(
        f"import json, subprocess\nresult = json.loads(subprocess.run(['/usr/bin/busybox', 'sh', '-c', {('busybox ' + command)!r}], capture_output=True, check=True).stdout)"
    )
    assert base64.b64decode(answer["document"])[:1] == b"\x84"


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
    "devices": sorted(name for name in os.listdir("/dev") if stat.S_ISCHR(os.stat("/dev/" + name).st_mode) and os.access("/dev/" + name, os.W_OK)),
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


@pytest.mark.parametrize("base", ["2020-01-01T00:00:00", "2040-01-01T00:00:00"])
def test_a_clock_that_the_parent_set_wrong_by_years_is_set_right_before_the_app_starts(make_parent, qemu_at, probe, base):
    parent = make_parent(qemu_at(base))
    with parent.boot(probe().eif) as guest:
        health = guest.health()
        skew = datetime.fromisoformat(base).replace(tzinfo=UTC).timestamp() - time.time()
        assert abs(health["clock_skew_ms"] / 1000 - skew) < 120
        assert health["clock_set"] == 1
        assert abs(guest.run("import time\nresult = time.time()") - time.time()) < 5
        authority = TlsAuthority()
        with _behind(guest, 8001, _tls(authority.server_context(HOST))):
            assert guest.run(FETCH.format(pem=authority.pem)) == "unchanged"
