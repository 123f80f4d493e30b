"""The endpoint, for apps."""

import json
import urllib.error
import urllib.request

import pytest

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
