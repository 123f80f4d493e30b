"""Frames from an attacker, the control server, egress, the emulation switch: over real sockets."""

import base64
import json
import socket
import struct
import threading

import pytest

from nitrokit.core.nsm import NsmClient
from nitrokit.runtime import control, egress, frames, platform, vsock
from nitrokit.runtime.logs import LogBuffer
from nitrokit.runtime.streams import Relay

LOGS = LogBuffer(1000)


@pytest.fixture
def hybrid(tmp_path, monkeypatch):
    """vsock as a sandboxed process has it."""
    monkeypatch.setattr(vsock, "_kernel_has_vsock", lambda: False)
    monkeypatch.setattr(vsock, "_FOLDER", tmp_path)
    for name in ("listen", "3", "0"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def ask(hybrid, make_nsm):
    handler = control.handler(NsmClient(make_nsm().answer), lambda: {"app": "running"}, LOGS)
    threading.Thread(target=frames.serve, args=(vsock.listen(control.PORT), handler), daemon=True).start()

    def raw(data, *, answer=True):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(hybrid / "listen" / str(control.PORT)))
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return json.loads(received[4:]) if received else None

    return raw


def _frame(value):
    data = json.dumps(value).encode()
    return struct.pack(">I", len(data)) + data


def test_health_and_attestation(ask):
    assert ask(_frame({"op": "health"})) == {"status": "ok", "app": "running"}
    answer = ask(_frame({"op": "attest", "nonce": base64.b64encode(b"n" * 32).decode()}))
    assert base64.b64decode(answer["document"])[:1] == b"\x84"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"\0\0\0\5abc", b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"{{{", _frame([1]), _frame({"op": "shutdown"}), _frame({"op": "attest"}), _frame({"op": "attest", "nonce": 5}),
        _frame({"op": "attest", "nonce": "!!"}), _frame({"op": "attest", "nonce": base64.b64encode(bytes(513)).decode()}), struct.pack(">I", 200_000) + b"[" * 200_000,
    ],
)  # fmt: skip
def test_garbage_is_answered_by_a_code_and_the_server_lives(ask, data):
    answer = ask(data)
    assert answer is None or set(answer) == {"error"}
    assert ask(_frame({"op": "health"}))["status"] == "ok"


def test_an_internal_error_says_nothing_but_its_type(hybrid):
    def handler(_):
        raise RuntimeError("the secret is 42")

    threading.Thread(target=frames.serve, args=(vsock.listen(5), handler), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(hybrid / "listen" / "5"))
        frames.send(connection, {})
        assert frames.receive(connection) == {"error": {"code": "internal", "message": "RuntimeError"}}


def _send_all(connection, payload):
    connection.sendall(payload)
    connection.shutdown(socket.SHUT_WR)


def test_egress_reaches_the_parents_port_and_only_named_hosts(hybrid, tmp_path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(hybrid / "3" / "8001"))
    server.listen()
    free = socket.create_server(("127.0.1.1", 0))
    port = free.getsockname()[1]
    free.close()
    said: list[str] = []
    egress.start([("kms.example.com", port, 8001)], [tmp_path / "hosts"], Relay(), said.append)
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 kms.example.com\n"
    with socket.create_connection(("127.0.1.1", port), timeout=10) as inner:
        outer, _ = server.accept()
        payload = bytes(range(256)) * 2000
        threading.Thread(target=_send_all, args=(inner, payload), daemon=True).start()
        assert b"".join(iter(lambda: outer.recv(1 << 16), b"")) == payload
        outer.sendall(b"answer")
        outer.close()
        assert inner.recv(100) == b"answer"


def test_only_the_whole_token_switches_emulation_on(tmp_path):
    cmdline = tmp_path / "cmdline"
    for text, expected in [
        ("quiet nitrokit.emulated=1", True),
        ("quiet", False),
        ("xnitrokit.emulated=1", False),
        ("nitrokit.emulated=10", False),
    ]:
        cmdline.write_text(text)
        assert platform.is_emulated(cmdline) is expected
    assert platform.is_emulated(tmp_path / "none") is False


def test_on_real_hardware_there_is_no_extra_authority():
    assert platform.extra_tls_authorities() is None
