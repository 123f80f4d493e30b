"""Ways in and out: streams with back-pressure and half-close, names that do not exist, the endpoint with its token."""

import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from nitrokit.core.nsm import NsmClient
from nitrokit.errors import UsageError
from nitrokit.runtime import client, egress, endpoint
from nitrokit.runtime.data_keys import AnswerCache, CachePolicy
from nitrokit.runtime.streams import Relay


def _joined(relay):
    (one, inner), (outer, other) = socket.socketpair(), socket.socketpair()
    relay.join(inner, outer)
    one.settimeout(20)
    other.settimeout(20)
    return one, other


def test_a_half_closed_stream_still_brings_the_answer():
    one, other = _joined(Relay())
    payload = bytes(range(256)) * 4000
    threading.Thread(target=lambda: (one.sendall(payload), one.shutdown(socket.SHUT_WR)), daemon=True).start()
    assert b"".join(iter(lambda: other.recv(1 << 16), b"")) == payload
    other.sendall(b"answer")
    other.close()
    assert (one.recv(10), one.recv(10)) == (b"answer", b"")


def test_a_reader_that_does_not_read_holds_up_its_own_stream_alone():
    relay = Relay()
    slow, _ = _joined(relay)
    slow.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 1 << 24:
            sent += slow.send(bytes(1 << 16))
    one, other = _joined(relay)
    one.sendall(b"x")
    assert other.recv(1) == b"x"


def test_many_streams_at_once_and_all_are_let_go():
    relay = Relay()
    pairs = [_joined(relay) for _ in range(200)]
    for number, (one, _) in enumerate(pairs):
        one.sendall(b"%d" % number)
    assert [int(other.recv(9)) for _, other in pairs] == list(range(200))
    for one, other in pairs:
        one.close()
        assert other.recv(1) == b""
        other.close()
    for _ in range(200):
        if not len(relay):
            break
        threading.Event().wait(0.05)
    assert len(relay) == 0


def test_a_name_that_nobody_allows_does_not_exist_and_is_told():
    said: list[str] = []
    server = egress.refuse_other_names(said.append, ("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        for garbage in (b"", b"\0" * 12, b"\xff" * 40):
            asker.sendto(garbage, server.getsockname())
        question = b"\x12\x34\1\0\0\1" + bytes(6) + b"\3www\7example\3com\0\0\1\0\1"
        asker.sendto(question, server.getsockname())
        while (answer := asker.recv(512))[:2] != b"\x12\x34":
            pass
    server.close()
    assert answer[2] & 0x80 and answer[3] & 15 == 3 and answer[12:] == question[12:]
    assert said[-1].startswith("egress: www.example.com is refused")


@pytest.fixture
def environment(make_nsm, monkeypatch):
    values = endpoint.start(NsmClient(make_nsm().answer))
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def test_an_app_attests_by_the_endpoint(environment):
    from nitrokit.core.attestation import parse_document

    document = client.attest(nonce=b"n" * 20, user_data=b"u")
    assert parse_document(document).nonce == b"n" * 20
    with pytest.raises(client.EndpointError) as caught:
        client.attest(nonce=b"n" * 513)
    assert caught.value.remote_code == "frame/base64"
    with pytest.raises(client.EndpointError):
        client.Kms("us-east-1", {}).generate_random(8)


@pytest.mark.parametrize(
    ("path", "token", "body", "status"),
    [("/v1/attest", "wrong", b"{}", 401), ("/x", None, b"{}", 404), ("/v1/attest", None, b"[", 400), ("/v1/attest", None, b"[]", 400)],
)
def test_the_endpoint_refuses_who_has_no_token_and_what_it_does_not_know(environment, path, token, body, status):
    headers = {"Authorization": f"Bearer {token or environment['NITROKIT_TOKEN']}"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(environment["NITROKIT_ENDPOINT"] + path, body, headers), timeout=10)
    assert caught.value.code == status
    assert "code" in json.load(caught.value)["error"]


def test_an_answer_is_kept_as_long_and_as_often_as_the_request_says():
    clock = [0.0]
    cache, made = AnswerCache(lambda: clock[0]), []

    def make():
        made.append(1)
        return {"n": len(made)}

    policy = CachePolicy.parse({"max_age": 10, "max_uses": 3})
    assert [cache.get("k", policy, make)["n"] for _ in range(4)] == [1, 1, 1, 2]
    clock[0] = 11
    assert cache.get("k", policy, make)["n"] == 3
    for bad in (None, {}, {"max_age": 0}, {"max_age": True}, {"max_age": 1, "x": 1}, {"max_age": 1, "max_uses": 0}):
        with pytest.raises(UsageError):
            CachePolicy.parse(bad)
