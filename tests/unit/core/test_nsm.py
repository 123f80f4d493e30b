"""NSM messages, both ways (aws-nitro-enclaves-nsm-api:src/api/mod.rs)."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core import cbor
from nitrokit.core.nsm import NsmClient, NsmError, PcrState, decode_request, decode_response, encode_error, encode_request, encode_response
from nitrokit.errors import NitrokitError

DESCRIPTION = {
    "version_major": 1,
    "version_minor": 2,
    "version_patch": 3,
    "module_id": "i-1-enc1",
    "max_pcrs": 32,
    "locked_pcrs": [0, 1],
    "digest": "SHA384",
}


def _client(name, fields=None):
    return NsmClient(lambda _: encode_response(name, fields))


def test_requests_have_the_forms_of_the_api():
    assert cbor2.loads(encode_request("DescribeNSM")) == "DescribeNSM"
    assert cbor2.loads(encode_request("DescribePCR", {"index": 3})) == {"DescribePCR": {"index": 3}}
    fields = {"user_data": None, "nonce": b"n", "public_key": None}
    assert decode_request(encode_request("Attestation", fields)) == ("Attestation", fields)
    with pytest.raises(NsmError) as caught:
        encode_request("ExtendPCR", {"index": 16, "data": bytes(5000)})
    assert caught.value.slug == "request-size"


@pytest.mark.parametrize(
    ("message", "slug"),
    [
        ("Surprise", "unknown-request"), ({"Surprise": {}}, "unknown-request"), ({"DescribePCR": {}}, "request-fields"), ({"DescribePCR": {"index": True}}, "request-fields"),
        ({"DescribePCR": {"index": -1}}, "request-fields"), ({"DescribePCR": {"index": 65536}}, "request-fields"), ({"DescribePCR": {"index": 1, "x": 1}}, "request-fields"),
        ({"Attestation": {"nonce": b""}}, "request-fields"), ({"ExtendPCR": {"index": 1, "data": "x"}}, "request-fields"), (5, "message"), ({}, "message"), ({1: {}}, "message"),
        ({"DescribePCR": []}, "message"), ({"DescribePCR": {"index": 0}, "LockPCR": {"index": 0}}, "message"),
    ],
    ids=str,
)  # fmt: skip
def test_malformed_requests(message, slug):
    with pytest.raises(NsmError) as caught:
        decode_request(cbor2.dumps(message))
    assert caught.value.slug == slug


def test_the_client_reads_every_answer():
    description = _client("DescribeNSM", DESCRIPTION).describe()
    assert (description.version, description.module_id, description.max_pcrs, description.locked_pcrs, description.digest) == (
        (1, 2, 3),
        "i-1-enc1",
        32,
        (0, 1),
        "SHA384",
    )
    assert _client("DescribePCR", {"lock": True, "data": b"v"}).describe_pcr(0) == PcrState(True, b"v")
    assert _client("ExtendPCR", {"data": b"v"}).extend_pcr(16, b"x") == b"v"
    assert _client("GetRandom", {"random": b"r", "later": 1}).get_random() == b"r"
    assert _client("Attestation", {"document": b"d"}).attestation() == b"d"
    _client("LockPCR").lock_pcr(16)
    _client("LockPCRs").lock_pcrs(17)


@pytest.mark.parametrize(
    "changes", [{"version_major": "1"}, {"locked_pcrs": [True]}, {"locked_pcrs": 1}, {"module_id": b""}, {"max_pcrs": -1}, {"digest": None}]
)
def test_malformed_answers(changes):
    with pytest.raises(NsmError) as caught:
        _client("DescribeNSM", {**DESCRIPTION, **changes}).describe()
    assert caught.value.slug == "response"


def test_errors_and_other_answers_are_told():
    with pytest.raises(NsmError) as caught:
        decode_response(encode_error("ReadOnlyIndex"), "ExtendPCR")
    assert (caught.value.slug, caught.value.got) == ("refused", "ReadOnlyIndex")
    for answer in (encode_response("LockPCR"), encode_response("GetRandom"), cbor2.dumps({"GetRandom": {"data": b""}})):
        with pytest.raises(NsmError):
            decode_response(answer, "GetRandom")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_our_error(data):
    for attempt in (lambda: decode_request(data), lambda: NsmClient(lambda _: data).describe()):
        try:
            attempt()
        except NitrokitError:
            pass


def test_a_larger_message_than_the_device_gives_is_refused():
    with pytest.raises(cbor.CborError):
        decode_response(cbor2.dumps({"GetRandom": {"random": bytes(0x3000)}}), "GetRandom")


def test_the_emulation_is_an_nsm(make_nsm):
    """PCR0–15 are locked from boot, 16–31 extend until locked, and only locked ones stand in a document (aws-nitro-enclaves-nsm-api:docs/attestation_process.md)."""
    from nitrokit.core.attestation import parse_document
    from nitrokit.core.measurements import ZERO, extend

    nsm = NsmClient(make_nsm().answer)
    assert nsm.describe().locked_pcrs == tuple(range(16))
    assert nsm.extend_pcr(16, b"x") == extend(ZERO, b"x")
    assert set(parse_document(nsm.attestation()).pcrs) == set(range(16))
    nsm.lock_pcr(16)
    assert parse_document(nsm.attestation()).pcrs[16] == extend(ZERO, b"x")
    nsm.lock_pcrs(20)
    assert set(parse_document(nsm.attestation()).pcrs) == set(range(20))
    for index in (0, 16, 19):
        with pytest.raises(NsmError) as caught:
            nsm.extend_pcr(index, b"x")
        assert caught.value.got == "ReadOnlyIndex"
    for attempt in (lambda: nsm.describe_pcr(32), lambda: nsm.lock_pcr(32), lambda: nsm.lock_pcrs(33)):
        with pytest.raises(NsmError) as caught:
            attempt()
        assert caught.value.got == "InvalidIndex"
