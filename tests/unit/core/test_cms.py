"""CMS messages: real ones from KMS, openssl both ways, every other form refused, one opaque failure."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core import cms
from nitrokit.core.cms import CmsError, open_enveloped_data, seal_enveloped_data

VECTORS = Path(__file__).parents[2] / "vectors"
MESSAGES = json.loads((VECTORS / "kms-cms-index.json").read_text())
KEYS = {size: rsa.generate_private_key(65537, size) for size in (2048, 3072, 4096)}
KEY = KEYS[2048]


def _slug(message, key=KEY):
    with pytest.raises(CmsError) as caught:
        open_enveloped_data(message, key)
    return caught.value.slug


@pytest.mark.parametrize("one", MESSAGES, ids=lambda one: one["file"][8:48])
def test_real_messages_are_read_and_opened_where_the_key_is_public(one):
    message = (VECTORS / one["file"]).read_bytes()
    encrypted_key, iv, content = cms._parse(message)
    assert (encrypted_key.hex(), iv.hex(), content.hex()) == (one["encrypted_key"], one["iv"], one["ciphertext"])
    if one["private_key_file"]:
        key = serialization.load_pem_private_key((VECTORS / one["private_key_file"]).read_bytes(), None)
        assert len(open_enveloped_data(message, key)) > 8  # type: ignore[arg-type]
    assert _slug(message) == "undecryptable"


@pytest.mark.parametrize("size", KEYS)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 4096])
def test_round_trip_in_the_form_of_kms(size, length):
    plaintext = os.urandom(length)
    message = seal_enveloped_data(plaintext, KEYS[size].public_key(), random=os.urandom)
    assert message[:2] == b"\x30\x80", "indefinite lengths"
    assert open_enveloped_data(message, KEYS[size]) == plaintext


def test_what_we_write_differs_from_kms_in_its_values_alone():
    real = (VECTORS / MESSAGES[0]["file"]).read_bytes()
    plain = seal_enveloped_data(bytes(len(bytes.fromhex(MESSAGES[0]["ciphertext"])) - 1), KEY.public_key(), random=os.urandom)

    def shape(node):
        return (node.tag, [shape(child) for child in node.children]) if node.children else (node.tag, len(node.content))

    assert shape(cms._read(real, 0, 20)[0]) == shape(cms._read(plain, 0, 20)[0])
    assert len(real) == len(plain)


@pytest.mark.parametrize("size", KEYS)
def test_openssl_opens_what_we_write(size, tmp_path):
    key = KEYS[size]
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "message").write_bytes(seal_enveloped_data(b"a secret", key.public_key(), random=os.urandom))
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", "message", "-inkey", "key.pem", "-binary"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"a secret", done.stderr


@pytest.mark.parametrize("size", KEYS)
@pytest.mark.parametrize("options", [[], ["-stream"]], ids=["definite", "indefinite"])
def test_we_open_what_openssl_writes(size, options, tmp_path):
    message = _openssl(tmp_path, KEYS[size], ["rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"], ["-aes-256-cbc", *options])
    assert (message[1] == 0x80) == bool(options)
    assert open_enveloped_data(message, KEYS[size]) == b"from openssl " * 500


def _openssl(folder, key, key_options, options):
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "plain").write_bytes(b"from openssl " * 500)
    request = ["openssl", "req", "-x509", "-key", "key.pem", "-subj", "/CN=x", "-days", "2", "-out", "cert.pem"]
    subprocess.run(request, cwd=folder, check=True, capture_output=True)
    chosen = [part for option in ["rsa_padding_mode:oaep", *key_options] for part in ("-keyopt", option)]
    command = [
        "openssl",
        "cms",
        "-encrypt",
        "-binary",
        "-in",
        "plain",
        "-outform",
        "DER",
        "-out",
        "message",
        "-recip",
        "cert.pem",
        "-keyid",
    ]
    subprocess.run([*command, *chosen, *options], cwd=folder, check=True, capture_output=True)
    return (folder / "message").read_bytes()


@pytest.mark.parametrize(
    ("key_options", "options"),
    [([], ["-aes-256-cbc"]), (["rsa_oaep_md:sha256", "rsa_mgf1_md:sha1"], ["-aes-256-cbc"]), (["rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"], ["-aes-128-cbc"])],
    ids=["SHA-1", "MGF1 with SHA-1", "AES-128"],
)  # fmt: skip
def test_other_algorithms_are_refused(key_options, options, tmp_path):
    assert _slug(_openssl(tmp_path, KEY, key_options, options)) == "malformed"


def test_other_key_sizes_are_refused():
    small = rsa.generate_private_key(65537, 1024)
    with pytest.raises(CmsError) as caught:
        seal_enveloped_data(b"", small.public_key(), random=os.urandom)
    assert caught.value.slug == "key-size"
    assert _slug(b"", small) == "key-size"


@pytest.fixture(scope="module")
def message():
    return seal_enveloped_data(b"a secret", KEY.public_key(), random=os.urandom)


def test_every_changed_byte_is_our_error_or_garbage_of_the_unauthenticated_content(message):
    codes = set()
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 0x10
        try:
            opened = open_enveloped_data(bytes(changed), KEY)
        except CmsError as error:
            codes.add(error.slug)
            continue
        # The recipient's identifier, the IV and the ciphertext: nothing authenticates them but the TLS connection.
        assert opened != b"a secret" or hashlib.sha256(KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).digest() in message  # fmt: skip
    assert codes == {"malformed", "undecryptable"}


@given(st.binary(max_size=300))
def test_any_bytes_are_our_error(data):
    assert _slug(data) == "malformed"
    assert _slug(b"\x30\x80" + data) == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        bytes((1 << 16) + 1),
        b"\x30\x80" * 5000,
        b"\x3f\x01\0",
        b"\x30\x85\0\0\0\0\0",
        b"\x04\x80\0\0",
        b"\x30\x03\x02\x02\x01",
        b"\x30\x04\x30\x80\0\0",
    ],
)
def test_odd_ber_is_our_error(data):
    assert _slug(data) == "malformed"


def _resealed(**changes):
    """A message with one part replaced."""
    spki = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = {
        "version": b"\x02\x01\x02", "recipient_version": b"\x02\x01\x02", "identifier": cms._tlv(0x80, hashlib.sha256(spki).digest()),
        "algorithm": cms._oaep(cms._SHA256_NULL, cms._SHA256_NULL), "key": cms._tlv(0x04, KEY.public_key().encrypt(bytes(32), cms._OAEP)), "iv": cms._tlv(0x04, bytes(16)),
        "content": cms._tlv(0x80, bytes(32)), "kind": cms._ENVELOPED_DATA, "data": cms._DATA, "cipher": cms._AES_256_CBC, "extra": b"",
    } | changes  # fmt: skip
    recipient = cms._tlv(0x30, parts["recipient_version"] + parts["identifier"] + parts["algorithm"] + parts["key"])
    encrypted = cms._tlv(0x30, parts["data"] + cms._tlv(0x30, parts["cipher"] + parts["iv"]) + parts["content"])
    enveloped = cms._tlv(0x30, parts["version"] + cms._tlv(0x31, recipient) + encrypted + parts["extra"])
    return cms._tlv(0x30, parts["kind"] + cms._tlv(0xA0, enveloped))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": b"\x02\x01\x00"}, {"recipient_version": b"\x02\x01\x00"}, {"identifier": cms._tlv(0x30, b"")}, {"kind": cms._DATA}, {"data": cms._ENVELOPED_DATA},
        {"cipher": bytes.fromhex("0609608648016503040102")}, {"iv": cms._tlv(0x04, bytes(15))}, {"content": cms._tlv(0x80, b"")}, {"content": cms._tlv(0x80, bytes(17))},
        {"content": cms._tlv(0x04, bytes(16))}, {"algorithm": cms._tlv(0x30, cms._RSAES_OAEP)}, {"extra": cms._tlv(0xA1, b"")},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_another_profile_is_refused(changes):
    assert _slug(_resealed(**changes)) == "malformed"


@pytest.mark.parametrize(
    "form",
    [
        cms._oaep(cms._SHA256_ABSENT, cms._SHA256_NULL),
        cms._oaep(cms._SHA256_NULL, cms._SHA256_ABSENT),
        cms._oaep(cms._SHA256_ABSENT, cms._SHA256_ABSENT),
    ],
)
def test_parameters_of_sha256_may_be_null_or_absent(form):
    """RFC 4055 section 2.1: both forms must be accepted."""
    assert cms._parse(_resealed(algorithm=form))


def test_constructed_and_primitive_content_are_the_same():
    chunks = cms._indefinite(0xA0, cms._tlv(0x04, bytes(16)) + cms._tlv(0x04, bytes(16)))
    assert cms._parse(_resealed())[2] == cms._parse(_resealed(content=chunks))[2] == bytes(32)


def test_all_failures_behind_the_form_look_alike():
    """A short key, SHA-1 padding, a wrong padding of the content and another key: one error, one text."""
    public = KEY.public_key()
    sha1 = padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)
    keys = [public.encrypt(bytes(16), cms._OAEP), public.encrypt(bytes(32), sha1), public.encrypt(bytes(32), cms._OAEP), bytes(256), b""]
    texts = set()
    for key in keys:
        with pytest.raises(CmsError) as caught:
            open_enveloped_data(_resealed(key=cms._tlv(0x04, key)), KEY)
        texts.add((caught.value.code, str(caught.value), caught.value.__cause__))
    assert len(texts) == 1
