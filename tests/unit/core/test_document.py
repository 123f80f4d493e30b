"""The document's form: every field's rule with both edges."""

import cbor2
import pytest

from nitrokit.core.attestation import DocumentError, VerificationError, parse_document, verify_document, verify_tpm_document
from nitrokit.core.cose import CoseSign1

PCR = bytes(48)


def _slug(data):
    with pytest.raises(DocumentError) as caught:
        parse_document(data)
    return caught.value.slug


@pytest.mark.parametrize(
    "fields",
    [
        {"module_id": "x"}, {"timestamp": 1}, {"timestamp": 253_402_300_799_999}, {"pcrs": {0: PCR}}, {"pcrs": dict.fromkeys(range(32), PCR)}, {"pcrs": {31: bytes(32)}},
        {"pcrs": {0: bytes(64)}}, {"certificate": b"x"}, {"certificate": bytes(1024)}, {"cabundle": [b"x"]}, {"cabundle": [bytes(1024)] * 11}, {"public_key": b""},
        {"public_key": bytes(1024)}, {"user_data": b""}, {"user_data": bytes(1024)}, {"nonce": b""}, {"nonce": bytes(1024)}, {"nonce": ..., "user_data": ..., "public_key": ...},
    ],
    ids=str,
)  # fmt: skip
def test_the_edge_that_holds(forgery, fields):
    parse_document(forgery.forge(**fields).data)


@pytest.mark.parametrize(
    "fields",
    [
        {"module_id": ""}, {"module_id": b"x"}, {"module_id": None}, {"digest": "SHA256"}, {"digest": 384}, {"timestamp": 0}, {"timestamp": -1}, {"timestamp": True},
        {"timestamp": 253_402_300_800_000}, {"timestamp": "1"}, {"pcrs": {}}, {"pcrs": None}, {"pcrs": {32: PCR}}, {"pcrs": {-1: PCR}}, {"pcrs": {"0": PCR}}, {"pcrs": {False: PCR}},
        {"pcrs": {0: bytes(47)}}, {"pcrs": {0: bytes(31)}}, {"pcrs": {0: bytes(65)}}, {"pcrs": {0: "x"}}, {"certificate": b""}, {"certificate": bytes(1025)}, {"certificate": None},
        {"cabundle": []}, {"cabundle": [b""]}, {"cabundle": [bytes(1025)]}, {"cabundle": ["x"]}, {"cabundle": None}, {"cabundle": [b"x"] * 17}, {"public_key": bytes(1025)},
        {"public_key": "x"}, {"user_data": bytes(1025)}, {"user_data": 1}, {"nonce": bytes(1025)}, {"nonce": []},
    ],
    ids=str,
)  # fmt: skip
def test_the_edge_that_does_not(forgery, fields):
    assert _slug(forgery.forge(**fields).data) == "field"


@pytest.mark.parametrize("key", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_a_mandatory_field_must_be_there(forgery, key):
    assert _slug(forgery.forge(**{key: ...}).data) == "missing-field"


def test_no_other_field_may_be_there(forgery):
    assert _slug(forgery.forge(surprise=1).data) == "unknown-field"
    assert _slug(forgery.forge(nitrotpm_pcrs={0: PCR}).data) == "unknown-field", "a document of both kinds is of none"


@pytest.mark.parametrize("payload", [cbor2.dumps([1]), cbor2.dumps({1: 2}), cbor2.dumps("x")])
def test_the_payload_is_a_map_with_text_keys(forgery, payload):
    assert _slug(forgery.forge(raw_payload=payload).data) == "not-a-map"


def test_a_definite_and_an_indefinite_map_say_the_same(forgery):
    definite = forgery.forge()
    payload = parse_document(definite.data).sign1.payload
    assert payload[:1] == b"\xa9"
    indefinite = forgery.forge(raw_payload=b"\xbf" + payload[1:] + b"\xff")
    one = verify_document(definite.data, trust_anchor=definite.trust_anchor, time=forgery.now)
    other = verify_document(indefinite.data, trust_anchor=definite.trust_anchor, time=forgery.now)
    assert (one.pcrs, one.module_id, one.timestamp) == (other.pcrs, other.module_id, other.timestamp)


def test_a_tag_is_allowed_once(forgery):
    forged = forgery.forge()
    assert verify_document(b"\xd2" + forged.data, trust_anchor=forged.trust_anchor, time=forgery.now)
    assert _slug(b"\xd2\xd2" + forged.data) == "tag"
    assert _slug(b"\xd1" + forged.data) == "tag"


def test_a_huge_document_is_refused_at_once():
    assert _slug(bytes(32 * 1024 + 1)) == "too-large"


def test_an_unsigned_document_can_be_read_by_those_who_ask(forgery):
    sign1 = parse_document(forgery.forge().data).sign1
    unsigned = CoseSign1(b"", sign1.payload, b"").encode()
    assert parse_document(unsigned, any_signature=True).module_id == forgery.module_id
    assert _slug(unsigned) == "algorithm"


def test_a_tpms_document_is_of_its_own_type(forgery):
    forged = forgery.forge(pcrs=..., nitrotpm_pcrs=dict.fromkeys(range(24), PCR))
    arguments = {"trust_anchor": forged.trust_anchor, "time": forgery.now}
    assert len(verify_tpm_document(forged.data, **arguments).pcrs) == 24
    with pytest.raises(VerificationError) as caught:
        verify_document(forged.data, **arguments)
    assert caught.value.slug == "not-an-enclave"
    enclave = forgery.forge()
    with pytest.raises(VerificationError) as caught:
        verify_tpm_document(enclave.data, trust_anchor=enclave.trust_anchor, time=forgery.now)
    assert caught.value.slug == "not-a-tpm"
