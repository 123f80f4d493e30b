"""CBOR, EIF, measurements, NSM messages, CMS: examples from the formats' sources, round trips, mutations."""

import os
import subprocess
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core import cbor, measurements
from nitrokit.core.cms import CmsError, open_enveloped_data, seal_enveloped_data
from nitrokit.core.eif import EifError, read_eif, write_eif
from nitrokit.core.nsm import NsmClient, NsmError, decode_request, encode_request
from nitrokit.errors import NitrokitError

KEYS = sorted((Path(__file__).parents[2] / "vectors" / "kms-cms").glob("*.key.pem"))

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_cbor_round_trip(value):
    assert cbor.decode(cbor.encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_our_error(data):
    try:
        cbor.decode(data)
    except cbor.CborError:
        pass


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        ("1817", "non-minimal"), ("1900ff", "non-minimal"), ("1a0000ffff", "non-minimal"), ("5801aa", "non-minimal"), ("a2616101616102", "invalid"), ("0000", "trailing-bytes"),
        ("c11a514b67b0", "tag"), ("f93c00", "simple-value"), ("f7", "simple-value"), ("82", "truncated"), ("5f4101", "truncated"), ("1c", "reserved"), ("1f", "reserved"),
        ("5f6101ff", "bad-chunk"), ("bf6161ff", "odd-map"), ("81" * 20 + "00", "too-deep"),
    ],
)  # fmt: skip
def test_lenient_cbor_is_refused(data, slug):
    with pytest.raises(cbor.CborError) as caught:
        cbor.decode(bytes.fromhex(data))
    assert caught.value.slug == slug


def test_definite_and_indefinite_maps_are_the_same():
    assert cbor.decode(bytes.fromhex("a161610a")) == cbor.decode(bytes.fromhex("bf61610aff")) == {"a": 10}


def test_published_pcr_values():
    """Nitro Enclaves User Guide, "Cryptographic attestation": the examples of PCR3 and PCR4; the measurement of nothing."""
    assert measurements.pcr3("arn:aws:iam::123456789012:role/Webserver").hex().startswith("78fce75d")
    assert measurements.pcr4("i-1234567890abcdef0").hex().startswith("08f996b5")
    assert measurements.EMPTY_PCR2.hex().startswith("21b9efbc184807662e966d34f390821309eeac68")


def test_measurements_file_round_trip_and_lenient_reading(measurements):
    parsed = type(measurements).parse(measurements.to_json().upper().replace("MEASUREMENTS", "Measurements"))
    assert parsed == measurements
    assert type(measurements).parse(parsed.to_json()).to_json() == measurements.to_json()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"Measurements": []}', '{"PCR0": "00"}', '{"PCR0": 5}', '{"PCR0": "' + "é" * 96 + '"}', "[" * 100_000]
)
def test_bad_measurements_are_our_error(text):
    with pytest.raises(measurements.MeasurementsError):
        measurements.Measurements.parse(text)


def test_eif_round_trip_and_pcrs(small_eif, measurements):
    eif = read_eif(small_eif)
    assert (eif.version, eif.arch, eif.cmdline) == (4, "x86_64", "cmdline")
    assert eif.measure() == measurements
    description = eif.describe()
    assert description["Measurements"]["HashAlgorithm"] == "Sha384 { ... }"
    assert (description["CheckCRC"], description["IsSigned"], description["ImageName"]) == (True, False, "small")


def test_every_changed_byte_of_an_eif_is_a_named_error(small_eif):
    for at in range(len(small_eif)):
        changed = bytearray(small_eif)
        changed[at] ^= 0x40
        with pytest.raises(EifError):
            read_eif(bytes(changed))


def test_every_truncation_of_an_eif_is_a_named_error(small_eif):
    for length in range(len(small_eif)):
        with pytest.raises(EifError):
            read_eif(small_eif[:length])


@given(
    st.binary(max_size=80),
    st.text(max_size=20),
    st.lists(st.binary(max_size=50), min_size=1, max_size=5),
    st.sampled_from(["x86_64", "aarch64"]),
)
def test_written_eifs_are_read(kernel, cmdline, ramdisks, arch):
    eif = read_eif(b"".join(bytes(chunk) for chunk in write_eif(kernel=kernel, cmdline=cmdline, ramdisks=ramdisks, metadata={}, arch=arch)))
    assert [bytes(one) for one in eif.ramdisks] == ramdisks
    assert (eif.arch, bytes(eif.kernel), eif.cmdline) == (arch, kernel, cmdline)


def test_nsm_requests_have_the_forms_of_the_api():
    """aws-nitro-enclaves-nsm-api:src/api/mod.rs."""
    assert cbor2.loads(encode_request("DescribeNSM")) == "DescribeNSM"
    assert cbor2.loads(encode_request("DescribePCR", {"index": 3})) == {"DescribePCR": {"index": 3}}
    assert decode_request(encode_request("Attestation", {"user_data": None, "nonce": b"n", "public_key": None}))[1]["nonce"] == b"n"
    with pytest.raises(NsmError):
        encode_request("ExtendPCR", {"index": 16, "data": bytes(5000)})


@given(st.binary(max_size=100))
def test_any_bytes_are_an_nsm_message_or_our_error(data):
    for attempt in (lambda: decode_request(data), lambda: NsmClient(lambda _: data).describe()):
        try:
            attempt()
        except NitrokitError:
            pass


@pytest.mark.parametrize("path", KEYS, ids=lambda path: path.name[:40])
def test_real_kms_messages_open(path):
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    message = path.with_name(path.name.replace(".key.pem", ".ber")).read_bytes()
    assert len(open_enveloped_data(message, key)) > 8  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096])
def test_cms_round_trip(key, size):
    plaintext = os.urandom(size)
    message = seal_enveloped_data(plaintext, key.public_key(), random=os.urandom)
    assert message[:2] == b"\x30\x80", "KMS writes indefinite lengths"
    assert open_enveloped_data(message, key) == plaintext


def test_openssl_opens_what_we_write(key, tmp_path):
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "message").write_bytes(seal_enveloped_data(b"a secret", key.public_key(), random=os.urandom))
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", "message", "-inkey", "key.pem", "-binary"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"a secret", done.stderr


def test_we_open_what_openssl_writes(key, tmp_path):
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "plain").write_bytes(b"from openssl " * 50)
    request = ["openssl", "req", "-x509", "-key", "key.pem", "-subj", "/CN=x", "-days", "2", "-out", "cert.pem"]
    subprocess.run(request, cwd=tmp_path, check=True, capture_output=True)
    options = ["-keyid", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"]
    command = [
        "openssl",
        "cms",
        "-encrypt",
        "-binary",
        "-aes-256-cbc",
        "-in",
        "plain",
        "-outform",
        "DER",
        "-out",
        "message",
        "-recip",
        "cert.pem",
        *options,
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert open_enveloped_data((tmp_path / "message").read_bytes(), key) == b"from openssl " * 50


def test_a_changed_message_is_our_error_and_wrong_keys_say_nothing_more(key):
    message = seal_enveloped_data(b"a secret", key.public_key(), random=os.urandom)
    outcomes: set[object] = set()
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 0x10
        try:
            outcomes.add(open_enveloped_data(bytes(changed), key) != b"a secret" or at)
        except CmsError as error:
            outcomes.add(error.code)
    assert {"cms/malformed", "cms/undecryptable"} <= outcomes
    with pytest.raises(CmsError) as caught:
        open_enveloped_data(message, rsa.generate_private_key(65537, 2048))
    assert caught.value.code == "cms/undecryptable"
