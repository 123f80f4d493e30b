"""The endpoint, for apps."""

import base64
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from nitrokit.core.attestation import parse_document
from nitrokit.core.nsm import NsmClient
from nitrokit.errors import UsageError
from nitrokit.runtime import client, endpoint
from nitrokit.runtime.data_keys import AnswerCache, CachePolicy


@pytest.fixture
def environment(make_nsm, monkeypatch):
    values = endpoint.start(NsmClient(make_nsm().answer))
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def test_an_app_attests_by_the_endpoint(environment):
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


def _curl(environment, path, *arguments, token=None):
    """Status and answer, as a program in any language has them."""
    command = ["curl", "-s", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {token or environment['NITROKIT_TOKEN']}"]
    done = subprocess.run([*command, *arguments, environment["NITROKIT_ENDPOINT"] + path], capture_output=True, check=True, timeout=30)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_curl_attests_and_sees_errors_by_code(environment, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(b" " * ((1 << 20) + 1))
    status, answer = _curl(environment, "/v1/attest", "-d", '{"nonce": "bm9uY2U="}')
    assert (status, parse_document(base64.b64decode(answer["document"])).nonce) == (200, b"nonce")
    refused = [
        (401, "endpoint/token", _curl(environment, "/v1/attest", "-d", "{}", token="0" * 32)),
        (413, "endpoint/length", _curl(environment, "/v1/attest", "-H", "Expect:", "--data-binary", f"@{large}")),
        (413, "endpoint/length", _curl(environment, "/v1/attest", "-H", "Transfer-Encoding: chunked", "-d", "{}")),
        (400, "endpoint/json", _curl(environment, "/v1/attest", "-d", '{"nonce": ')),
        (400, "usage/request", _curl(environment, "/v1/attest", "-d", '{"Nonce": ""}')),
        (404, "endpoint/unknown", _curl(environment, "/v1/kms/schedule_key_deletion", "-d", "{}")),
        (400, "frame/credentials", _curl(environment, "/v1/kms/decrypt", "-d", '{"region": "us-east-1", "credentials": 5}')),
    ]
    assert [(code, slug) for code, slug, _ in refused] == [(got[0], got[1]["error"]["code"]) for _, _, got in refused]


def test_a_length_of_thousands_of_digits_is_too_long_and_nothing_is_printed(environment, capfd):
    """Python refuses to make a number of more than 4,300 digits."""
    with socket.create_connection(("127.0.0.1", int(environment["NITROKIT_ENDPOINT"].rpartition(":")[2])), timeout=10) as connection:
        head = f"POST /v1/attest HTTP/1.1\r\nAuthorization: Bearer {environment['NITROKIT_TOKEN']}\r\nContent-Length: {'9' * 5000}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.makefile("rb").readline().split()[1] == b"413"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("key_id", [None, "alias/app", "1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-1234abcd12ab34cd56ef1234567890ab"])
@pytest.mark.parametrize("action", ["decrypt", "generate_data_key", "generate_data_key_pair", "derive_shared_secret"])
def test_a_key_is_named_by_its_arn_alone(environment, action, key_id):
    """The credentials are the parent's choice; any other name is looked up in their account, which may be the attacker's."""
    credentials = {"access_key_id": "a", "secret_access_key": "b"}
    parameters = {} if key_id is None else {"KeyId": key_id}
    request = {"region": "us-east-1", "credentials": credentials, "parameters": parameters}
    with pytest.raises(client.EndpointError) as caught:
        client._post(f"/v1/kms/{action}", request)
    assert caught.value.remote_code == "usage/kms-key"


def test_clients_that_say_nothing_or_half_hold_up_nobody(environment):
    address = ("127.0.0.1", int(environment["NITROKIT_ENDPOINT"].rpartition(":")[2]))
    slow = [socket.create_connection(address, timeout=10) for _ in range(40)]
    for number, one in enumerate(slow):
        one.sendall(b"POST /v1/attest HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"[: number * 2])
    assert client.attest(nonce=b"n")
    for one in slow:
        one.close()
    assert client.attest(nonce=b"n")


def test_nothing_that_an_app_asks_is_printed(environment, capfd):
    secret = {"access_key_id": "AKIDSECRET", "secret_access_key": "SECRETSECRET"}
    with pytest.raises(client.EndpointError):
        client.Kms("no such region", secret).decrypt(b"SECRETSECRET", "SECRETSECRET")
    with pytest.raises(client.EndpointError):
        client.Kms("us-east-1", secret).decrypt(b"SECRETSECRET", "arn:aws:kms:eu-west-1:123456789012:key/SECRETSECRET")
    printed = capfd.readouterr()
    assert "SECRET" not in printed.out + printed.err


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
