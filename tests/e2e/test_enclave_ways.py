"""Ways in and out of an enclave, and its time, as docs/runtime.md tells them: under QEMU's nitro-enclave machine, with a real kernel and vsock."""

import base64
import contextlib
import secrets
import socket
import threading
import time
from datetime import UTC, datetime

import pytest

from nitrokit.cli.doctor import _qemu
from nitrokit.emulation.cloud.tls import TlsAuthority
from nitrokit.emulation.nitro.listeners import UnixListener

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(_qemu().state != "ok", reason="no QEMU with the nitro-enclave machine (NITROKIT_QEMU, PATH)"),
]
HOST = "allowed.example.com"


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
# Whether the app has seen the end of each connection, waited for.
ENDED = """
import builtins, time
deadline = time.monotonic() + 45
while not (result := all(how for _, how in builtins.seen)) and time.monotonic() < deadline:
    time.sleep(0.05)
"""


def test_ingress_that_is_cut_ends_on_both_sides_and_the_next_works(guest):
    guest.run(ECHO)
    for _ in range(5):
        with guest.connect(8080) as connection:
            connection.sendall(bytes(300_000))
            connection.recv(1000)  # and then it is gone, with bytes under way both ways
    guest.health(connections=0)
    assert guest.run(ENDED) is True
    payload = secrets.token_bytes(2_000_000)
    with guest.connect(8080) as connection:
        threading.Thread(target=lambda: (connection.sendall(payload), connection.shutdown(socket.SHUT_WR)), daemon=True).start()
        assert b"".join(iter(lambda: connection.recv(1 << 16), b"")) == payload


def test_a_client_that_takes_nothing_and_goes_away_gives_its_place_back(guest):
    guest.run(ECHO)
    with guest.connect(8080, timeout=2) as connection, pytest.raises(TimeoutError):
        while True:
            connection.sendall(bytes(1 << 20))  # until nobody takes any more: the app waits for this client, both kernels are full
    guest.health(connections=0)
    assert guest.run(ENDED) is True


def test_hundreds_of_ingress_connections_at_once(guest):
    guest.run(ECHO)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(guest.connect(8080)) for _ in range(200)]
        for number, one in enumerate(connections):
            one.sendall(b"%06d" % number)
        assert [int(one.recv(6)) for one in connections] == list(range(200))
        guest.health(connections=200)
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


def test_connections_end_with_the_app_that_held_them(guest):
    guest.run(ECHO)
    with guest.connect(8080) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        guest.end_app("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert connection.recv(1) == b""
    guest.health(app="running", connections=0)


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
