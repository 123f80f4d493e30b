"""Documents signed by AWS's hypervisors verify; what others made up or tampered with does not."""

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrokit.core.attestation import (
    AWS_NITRO_ROOT_G1,
    DocumentError,
    TrustAnchor,
    VerificationError,
    VerifiedDocument,
    parse_document,
    verify_document,
    verify_tpm_document,
)
from nitrokit.core.attestation.roots import AWS_NITRO_ROOT_G1_SHA256
from nitrokit.core.measurements import pcr4

VECTORS = Path(__file__).parents[2] / "vectors"
INDEX = json.loads((VECTORS / "attestation-index.json").read_text())
ENCLAVES = [one for one in INDEX["valid"] if one["kind"] == "NitroEnclave"]
TPMS = [one for one in INDEX["valid"] if one["kind"] != "NitroEnclave"]


def _read(one):
    return (VECTORS / one["file"]).read_bytes()


def test_the_root_is_the_published_one(vectors):
    assert AWS_NITRO_ROOT_G1.sha256 == AWS_NITRO_ROOT_G1_SHA256
    assert AWS_NITRO_ROOT_G1.der == (vectors / "root" / "aws-nitro-root-g1.der").read_bytes()


def test_there_are_vectors_of_both_kinds():
    assert len(ENCLAVES) > 30
    assert len(TPMS) >= 2


@pytest.mark.parametrize("one", ENCLAVES, ids=lambda one: Path(one["file"]).stem[-40:])
def test_a_real_document_verifies_at_its_own_time_and_says_what_the_index_says(one):
    data = _read(one)
    document = verify_document(data, trust_anchor=AWS_NITRO_ROOT_G1, time=parse_document(data).timestamp)
    assert document.module_id == one["module_id"]
    assert int(document.timestamp.timestamp() * 1000) in (one["timestamp_ms"], one["timestamp_ms"] - 1)
    assert {str(index): value.hex() for index, value in document.pcrs.items()} == one["pcrs"]
    assert document.pcrs[4] == pcr4(document.module_id.split("-enc")[0])
    assert document.is_debug == (set(one["pcrs"]["0"] + one["pcrs"]["1"] + one["pcrs"]["2"]) == {"0"})


@pytest.mark.parametrize("one", ENCLAVES[:6], ids=lambda one: Path(one["file"]).stem[-40:])
@pytest.mark.parametrize("shift", [timedelta(days=-1), timedelta(hours=4)])
def test_it_has_expired_at_any_other_time(one, shift):
    data = _read(one)
    with pytest.raises(VerificationError) as caught:
        verify_document(data, trust_anchor=AWS_NITRO_ROOT_G1, time=parse_document(data).timestamp + shift)
    assert caught.value.code == "verification/validity"


@pytest.mark.parametrize("one", TPMS, ids=lambda one: Path(one["file"]).stem[-40:])
def test_a_nitrotpm_document_is_its_own_type(one):
    data = _read(one)
    time = parse_document(data).timestamp
    document = verify_tpm_document(data, trust_anchor=AWS_NITRO_ROOT_G1, time=time)
    assert not isinstance(document, VerifiedDocument)
    with pytest.raises(VerificationError) as caught:
        verify_document(data, trust_anchor=AWS_NITRO_ROOT_G1, time=time)
    assert caught.value.code == "verification/not-an-enclave"


@pytest.mark.parametrize("one", INDEX["invalid"], ids=lambda one: Path(one["file"]).stem[-40:])
def test_an_invalid_document_is_refused(one):
    data = _read(one)
    with pytest.raises((DocumentError, VerificationError)):
        verify_document(data, trust_anchor=AWS_NITRO_ROOT_G1, time=parse_document(data).timestamp)


def test_another_trust_anchor_refuses_a_real_document(pki):
    data = _read(ENCLAVES[0])
    with pytest.raises(VerificationError) as caught:
        verify_document(data, trust_anchor=pki.trust_anchor, time=parse_document(data).timestamp)
    assert caught.value.code == "verification/root"


def test_the_emulated_root_is_no_root_of_aws(make_nsm, pki):
    document = make_nsm().countersign.__self__._document({0: bytes(48)}, {"public_key": None, "user_data": None, "nonce": None}, locked={0})
    parsed = parse_document(document)
    with pytest.raises(VerificationError) as caught:
        verify_document(document, trust_anchor=AWS_NITRO_ROOT_G1, time=parsed.timestamp)
    assert caught.value.code == "verification/root"
    assert isinstance(pki.trust_anchor, TrustAnchor)


@given(st.integers(0, len(ENCLAVES) - 1), st.integers(min_value=0), st.integers(1, 255))
@settings(max_examples=400)
def test_any_changed_byte_of_any_document_is_refused(number, at, flipped):
    """Never accepted, and never another error than ours."""
    data = bytearray(_read(ENCLAVES[number]))
    time = parse_document(bytes(data)).timestamp
    data[at % len(data)] ^= flipped
    with pytest.raises((DocumentError, VerificationError)):
        verify_document(bytes(data), trust_anchor=AWS_NITRO_ROOT_G1, time=time)


@pytest.mark.parametrize("one", [ENCLAVES[0], ENCLAVES[-1]], ids=lambda one: Path(one["file"]).stem[-40:])
def test_every_changed_byte_of_two_documents_is_refused(one):
    data = _read(one)
    time = parse_document(data).timestamp
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x01
        with pytest.raises((DocumentError, VerificationError)):
            verify_document(bytes(changed), trust_anchor=AWS_NITRO_ROOT_G1, time=time)


def test_a_truncated_document_is_refused_at_every_length():
    data = _read(ENCLAVES[0])
    for length in range(0, len(data), 13):
        with pytest.raises(DocumentError):
            parse_document(data[:length])


def test_a_verified_document_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        VerifiedDocument("i-1-enc1", None, {}, None, None, None, b"", AWS_NITRO_ROOT_G1, None, _token=object())  # type: ignore[arg-type]


@pytest.mark.parametrize("one", INDEX["valid"], ids=lambda one: Path(one["file"]).stem[-40:])
def test_openssl_finds_path_and_signature_as_we_do(one, tmp_path):
    """A second opinion on every document: the path at its own time (purpose any: a leaf has no extended key usage), and the signature over the Sig_structure."""
    document = parse_document(_read(one))
    chain = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (*document.cabundle, document.certificate)]
    (tmp_path / "root.pem").write_bytes((VECTORS / "root" / "aws-nitro-root-g1.der").read_bytes())
    (tmp_path / "between.pem").write_bytes(b"".join(chain[1:-1]))
    (tmp_path / "leaf.pem").write_bytes(chain[-1])
    at = str(int(document.timestamp.timestamp()))
    command = ["openssl", "verify", "-attime", at, "-trusted", "root.pem", "-untrusted", "between.pem", "-partial_chain", "leaf.pem"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout == "leaf.pem: OK\n"
    half = len(document.sign1.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (document.sign1.signature[:half], document.sign1.signature[half:]))
    (tmp_path / "signature").write_bytes(encode_dss_signature(r, s))
    (tmp_path / "message").write_bytes(document.sign1.sig_structure())
    key = subprocess.run(["openssl", "x509", "-in", "leaf.pem", "-pubkey", "-noout"], cwd=tmp_path, capture_output=True, check=True).stdout
    (tmp_path / "key.pem").write_bytes(key)
    command = ["openssl", "dgst", "-sha384", "-verify", "key.pem", "-signature", "signature", "message"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout == "Verified OK\n"
