"""Joined streams: back-pressure, half-close, thousands of pairs, peers that go away or never come."""

import errno
import resource
import socket
import threading
import time
from contextlib import suppress

import pytest

from nitrokit.runtime import ingress, streams
from nitrokit.runtime.streams import Relay, allow_connections


def _joined(relay):
    (one, inner), (outer, other) = socket.socketpair(), socket.socketpair()
    relay.join(inner, outer)
    one.settimeout(20)
    other.settimeout(20)
    return one, other


def _read(connection):
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def _becomes(condition):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_empty(relay):
    return _becomes(lambda: len(relay) == 0)


def _send(connection, payload):
    connection.sendall(payload)
    connection.shutdown(socket.SHUT_WR)


def test_a_half_closed_stream_still_brings_the_answer():
    one, other = _joined(Relay())
    payload = bytes(range(256)) * 4000
    threading.Thread(target=_send, args=(one, payload), daemon=True).start()
    assert _read(other) == payload
    other.sendall(b"answer")
    other.close()
    assert (one.recv(10), one.recv(10)) == (b"answer", b"")


def test_a_reader_that_does_not_read_holds_up_its_own_stream_alone():
    relay = Relay()
    slow, _kept = _joined(relay)
    slow.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 1 << 24:
            sent += slow.send(bytes(1 << 16))
    one, other = _joined(relay)
    one.sendall(b"x")
    assert other.recv(1) == b"x"


def test_what_was_sent_before_an_end_arrives_however_slow_the_reader_and_nothing_spins():
    relay = Relay()
    one, other = _joined(relay)
    one.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += one.send(bytes(1 << 16))
    one.close()
    other.sendall(b"nobody takes this")
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25, "an end that the kernel tells again and again must not keep a processor busy"
    assert len(_read(other)) == sent
    other.close()
    assert _is_empty(relay)


def test_an_end_in_both_directions_loses_nothing_that_was_sent_before():
    one, other = _joined(Relay())
    sent = {}
    for connection in (one, other):
        connection.setblocking(False)
        sent[connection] = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent[connection] += connection.send(bytes(1 << 16))
    one.shutdown(socket.SHUT_RDWR)
    other.settimeout(20)
    got = 0
    with suppress(ConnectionResetError):  # then: what nobody took of the other direction
        while chunk := other.recv(1 << 16):
            got += len(chunk)
    assert got == sent[one]


def test_an_idle_peer_that_went_away_is_noticed():
    relay = Relay()
    one, other = _joined(relay)
    one.close()
    assert other.recv(1) == b""
    other.close()
    assert _is_empty(relay)


def test_a_pair_that_the_kernel_has_no_memory_for_ends_and_the_others_go_on(monkeypatch):
    relay = Relay()
    poll = relay._poll
    refusals: list[int] = []

    class Short:
        """epoll in a moment without memory (epoll_ctl(2), ENOMEM)."""

        def register(self, number, events):
            if not refusals:
                refusals.append(number)
                raise OSError(errno.ENOMEM, "no memory")
            poll.register(number, events)

        def __getattr__(self, name):
            return getattr(poll, name)

    monkeypatch.setattr(relay, "_poll", Short())
    one, other = _joined(relay)
    assert (one.recv(1), other.recv(1)) == (b"", b"")
    assert refusals and _is_empty(relay)
    one, other = _joined(relay)
    one.sendall(b"x")
    assert other.recv(1) == b"x"


def test_what_waits_for_all_slow_readers_together_is_bounded(monkeypatch):
    monkeypatch.setattr(streams, "_BUDGET", 1 << 20)
    relay = Relay()
    joined = [_joined(relay) for _ in range(32)]
    assert _becomes(lambda: len(relay._sides) == 64)
    for one, _ in joined:
        one.setblocking(False)

    def all_wait():
        for one, _ in joined:  # again and again: what was sent before may still be on its way to where it waits
            with suppress(BlockingIOError):
                while True:
                    one.send(bytes(1 << 16))
        return sum(bool(side.waiting) for side in relay._sides.values()) == 32

    assert _becomes(all_wait)
    assert sum(len(side.waiting) for side in relay._sides.values()) <= 1 << 20


def test_thousands_of_pairs_at_once_with_half_close_and_bounded_memory():
    """2,000 pairs, each with a reader that does not read at first; then all bytes arrive, and nothing is left."""
    pairs, payload = 2000, bytes(100_000)
    allow_connections(2 * pairs + 1000)
    relay = Relay()
    joined = [_joined(relay) for _ in range(pairs)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for one, _ in joined:
        one.setblocking(False)
        one.send(payload)
    time.sleep(0.5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10, "kilobytes"
    for number, (one, other) in enumerate(joined):
        one.setblocking(True)
        threading.Thread(target=_send, args=(one, b"%d" % number), daemon=True).start()
        got = _read(other)
        assert got.lstrip(b"\0") == b"%d" % number and len(got) > 50_000
        other.sendall(b"answer")
        other.close()
        assert one.recv(10) == b"answer"
        one.close()
    assert _is_empty(relay)


@pytest.fixture
def served():
    """An ingress port, whose app listens on the returned port or not."""
    relay, said = Relay(), []

    def serve(port):
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        arguments = (listener, lambda: ingress.connect(port), lambda error: said.append(str(error)))
        threading.Thread(target=relay.serve, args=arguments, daemon=True).start()
        return lambda: socket.create_connection(listener.getsockname(), timeout=20)

    return relay, said, serve


def test_an_app_that_does_not_listen_yet_ends_the_connection_with_a_line_and_gets_the_next(served):
    relay, said, serve = served
    app = socket.socket()
    app.bind(("127.0.0.1", 0))
    call = serve(app.getsockname()[1])
    with call() as client:
        assert client.recv(1) == b""
    assert said == ["[Errno 111] Connection refused"]
    app.listen()
    with call() as client:
        client.sendall(b"hello")
        taken, _ = app.accept()
        assert taken.recv(10) == b"hello"
        taken.close()  # with the connection open: the client sees an end
        assert client.recv(1) == b""
    assert _is_empty(relay)


def test_an_app_that_accepts_nothing_holds_up_nobody_else(served):
    relay, _, serve = served
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    call, clients = serve(full.getsockname()[1]), []
    clients = [call() for _ in range(20)]
    for client in clients:
        client.sendall(b"x")
    ready = socket.create_server(("127.0.0.1", 0))
    with serve(ready.getsockname()[1])() as client:
        client.sendall(b"y")
        assert ready.accept()[0].recv(1) == b"y"
    assert _becomes(lambda: len(relay) >= 20), "they wait for the app, which may still come"
    taken, _ = full.accept()
    assert taken.recv(1) == b"x", "what a client sent while its connection was being made is there"


def test_more_connections_than_there_may_be_end_with_a_line(served, monkeypatch):
    _, said, serve = served
    monkeypatch.setattr(streams, "MAX_PAIRS", 2)
    app = socket.create_server(("127.0.0.1", 0))
    call = serve(app.getsockname()[1])
    kept = [call(), call()]
    taken = [app.accept()[0] for _ in kept]
    with call() as third:
        assert third.recv(1) == b""
    assert said == ["[Errno 24] 2 connections are open"]
    kept[0].sendall(b"x")
    assert taken[0].recv(1) == b"x"


def test_a_thousand_clients_reach_an_app(served):
    _, _, serve = served
    app = socket.create_server(("127.0.0.1", 0), backlog=2048)
    call = serve(app.getsockname()[1])
    clients = [call() for _ in range(1000)]
    for number, client in enumerate(clients):
        client.sendall(b"%04d" % number)
    taken = [app.accept()[0] for _ in clients]
    assert sorted(int(one.recv(4)) for one in taken) == list(range(1000))
    for one in [*clients, *taken]:
        one.close()


def _echo(connection):
    with suppress(OSError), connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def test_a_client_that_takes_nothing_and_goes_away_frees_the_app_that_waits_for_it():
    relay = Relay()
    client, app = _joined(relay)
    app.settimeout(None)
    echo = threading.Thread(target=_echo, args=(app,), daemon=True)
    echo.start()
    client.setblocking(False)
    assert _becomes(lambda: _is_stuck(relay, client))
    client.shutdown(socket.SHUT_RDWR)  # as vsock tells of a peer that is gone: no error, and data that nobody has read
    echo.join(20)
    assert not echo.is_alive()
    assert _is_empty(relay)


def test_an_app_that_closed_a_connection_frees_its_place_though_the_client_never_ends(served, monkeypatch):
    monkeypatch.setattr(streams, "_PROBE", 1)
    relay, _, serve = served
    app = socket.create_server(("127.0.0.1", 0))
    with serve(app.getsockname()[1])() as client:
        taken, _ = app.accept()
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # the kernel forgets it after a second, not after a minute
        taken.close()
        assert client.recv(1) == b""
        assert _is_empty(relay)


def test_an_app_that_only_sends_no_more_is_still_there(served, monkeypatch):
    monkeypatch.setattr(streams, "_PROBE", 1)
    relay, _, serve = served
    app = socket.create_server(("127.0.0.1", 0))
    with serve(app.getsockname()[1])() as client, app.accept()[0] as taken:
        taken.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        time.sleep(3)
        assert len(relay) == 1
        client.sendall(b"x")
        assert taken.recv(1) == b"x"


def _is_stuck(relay, client):
    """Whether both directions wait, so that nobody reads anything."""
    with suppress(BlockingIOError):
        while True:
            client.send(bytes(1 << 16))
    return len(relay._sides) == 2 and all(side.waiting for side in relay._sides.values())
