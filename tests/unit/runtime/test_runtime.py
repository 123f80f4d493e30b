"""Frames from an attacker, the control server, egress, the emulation switch: over real sockets."""

import base64
import functools
import json
import socket
import struct
import threading

import pytest

from nitrokit.core.nsm import NsmClient, NsmError
from nitrokit.runtime import control, egress, frames, init, mounts, nsm_device, platform, vsock
from nitrokit.runtime.logs import LogBuffer
from nitrokit.runtime.streams import Relay

LOGS = LogBuffer(1000)


@pytest.fixture
def hybrid(tmp_path, monkeypatch):
    """vsock as a sandboxed process has it."""
    monkeypatch.setattr(vsock, "_FOLDER", tmp_path)
    for name in ("listen", "3", "0"):
        (tmp_path / name).mkdir()
    return tmp_path


def _serve(hybrid, nsm):
    """A control server, and what asks it."""
    handler = control.handler(nsm, lambda: {"app": "running"}, LOGS)
    threading.Thread(target=frames.serve, args=(vsock.listen(control.PORT), handler, control.MAX_REQUEST), daemon=True).start()

    def raw(data, *, answer=True):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(hybrid / "listen" / str(control.PORT)))
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return json.loads(received[4:]) if received else None

    return raw


@pytest.fixture
def ask(hybrid, make_nsm):
    return _serve(hybrid, NsmClient(make_nsm().answer))


def _frame(value):
    data = json.dumps(value).encode()
    return struct.pack(">I", len(data)) + data


def test_health_and_attestation(ask):
    assert ask(_frame({"op": "health"})) == {"status": "ok", "app": "running"}
    answer = ask(_frame({"op": "attest", "nonce": base64.b64encode(b"n" * 32).decode()}))
    assert base64.b64decode(answer["document"])[:1] == b"\x84"


@pytest.mark.skipif(nsm_device.present(), reason="here is an NSM")
def test_a_kernel_without_the_nsms_driver_is_told_by_code_and_the_server_lives(hybrid, monkeypatch, tmp_path):
    ask = _serve(hybrid, platform.nsm())
    attest = _frame({"op": "attest", "nonce": base64.b64encode(b"n" * 32).decode()})
    (tmp_path / "file").touch()
    for device, code in (
        (nsm_device.DEVICE, "nsm/no-device"),
        (str(tmp_path), "nsm/no-device"),
        (str(tmp_path / "file"), "nsm/device"),
        ("/dev/null", "nsm/device"),
    ):
        monkeypatch.setattr(nsm_device, "DEVICE", device)
        answer = ask(attest)
        assert (set(answer), answer["error"]["code"]) == ({"error"}, code)
        with pytest.raises(NsmError) as caught:
            platform.nsm().attestation(nonce=b"n")
        assert (caught.value.code, caught.value.expected) == (code, device if code == "nsm/no-device" else None)
    assert ask(_frame({"op": "health"}))["status"] == "ok"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"\0\0\0\5abc", b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"{{{", _frame([1]), _frame({"op": "shutdown"}), _frame({"op": "attest"}), _frame({"op": "attest", "nonce": 5}),
        _frame({"op": "attest", "nonce": "!!"}), _frame({"op": "attest", "nonce": base64.b64encode(bytes(513)).decode()}), struct.pack(">I", 4000) + b"[" * 4000,
    ],
)  # fmt: skip
def test_garbage_is_answered_by_a_code_and_the_server_lives(ask, data):
    answer = ask(data)
    assert answer is None or set(answer) == {"error"}
    assert ask(_frame({"op": "health"}))["status"] == "ok"


def test_the_parent_cannot_fill_the_memory_with_what_it_asks(ask):
    """1 MiB of ``[]`` becomes 25 MB in Python, and 64 requests may wait at once."""
    assert ask(struct.pack(">I", control.MAX_REQUEST + 1))["error"]["code"] == "frame/too-large"
    fitting = json.dumps({"op": "health"}).encode().ljust(control.MAX_REQUEST)
    assert ask(struct.pack(">I", len(fitting)) + fitting)["status"] == "ok"


def test_where_there_is_no_sandbox_only_the_kernels_vsock_will_do(monkeypatch, tmp_path):
    monkeypatch.setattr(vsock, "_FOLDER", tmp_path / "absent")
    families = []

    class Refusing(socket.socket):
        def __init__(self, family, kind):
            families.append(family)
            raise OSError("no such family")

    monkeypatch.setattr(socket, "socket", Refusing)
    for attempt in (lambda: vsock.connect(3, 9000, timeout=1), lambda: vsock.begin(3, 8001), lambda: vsock.listen(5001)):
        with pytest.raises(OSError, match="no such family"):
            attempt()
    assert families == [socket.AF_VSOCK] * 3


def test_an_error_that_ends_a_thread_is_told_by_its_type_and_never_on_the_console(monkeypatch, capfd):
    logs = LogBuffer()
    monkeypatch.setattr(threading, "excepthook", functools.partial(init.tell_failure, logs.say))
    thread = threading.Thread(target=lambda: int("the secret is 42"))
    thread.start()
    thread.join()
    assert logs.read(0)["lines"] == ["nitrokit: a thread of init ended: ValueError"]
    assert "42" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("link", "inside"),
    [("usr/etc", True), ("../rootfs2/etc", False), ("/usr/etc", False), ("../../etc", False), ("/proc/self/root", False)],
)
def test_no_link_of_an_image_leads_init_out_of_its_root(tmp_path, link, inside):
    root = tmp_path / "rootfs"
    (root / "usr/etc").mkdir(parents=True)
    (root / "etc").symlink_to(link)
    if inside:
        assert mounts.within(str(root), "/etc/hosts") == str(root / "usr/etc/hosts")
    else:
        with pytest.raises(OSError, match="leaves it"):
            mounts.within(str(root), "/etc/hosts")


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


class _NoRelay(Relay):
    """Takes no connection: this test asks where there are listeners, and leaves none behind."""

    def __init__(self):
        pass

    def serve(self, listener, connect, failed):
        listener.close()


def test_each_host_of_hundreds_has_an_address_of_its_own(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    allowed = egress.start([(f"{number}.example.com", port, 8001) for number in range(300)], [tmp_path / "hosts"], _NoRelay(), print)
    assert len(allowed) == 300
    addresses = [line.split()[0] for line in (tmp_path / "hosts").read_text().splitlines()[1:]]
    assert len(set(addresses)) == 300 and "127.0.0.1" not in addresses


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
