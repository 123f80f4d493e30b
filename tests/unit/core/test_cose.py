"""COSE_Sign1: examples of the COSE working group; the profile of attestation documents; openssl checks what we sign."""

import base64
import json
import subprocess
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nitrokit.core import cbor, cose

EXAMPLES = sorted((Path(__file__).parents[2] / "vectors" / "cose").glob("*.json"))
OUTSIDE = {"sign-pass-01": "the algorithm is not protected", "sign-pass-02": "external data is signed too"}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


def _key(fields):
    x, y = (int.from_bytes(base64.urlsafe_b64decode(fields[name] + "=="), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, CURVES[fields["crv"]]).public_key()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem.rpartition("__")[2])
def test_examples_of_the_working_group(path):
    example = json.loads(path.read_text())
    data = bytes.fromhex(example["output"]["cbor"])
    with pytest.raises((cose.CoseError, cbor.CborError)) as caught:
        cose.parse_sign1(data, cose.ALGORITHMS)  # all of them have a key id in the unprotected header
    assert caught.value.slug in ("unprotected-header", "tag")
    protected, _, payload, signature = cbor2.loads(data).value if data[0] >> 5 == 6 else cbor2.loads(data)
    sign1 = cose.CoseSign1(protected, payload, signature)
    name = path.stem.rpartition("__")[2]
    if (example.get("fail") and name != "sign-fail-01") or name in OUTSIDE:  # 01: the tag alone is wrong
        with pytest.raises(cose.CoseError):
            cose.verify_sign1(sign1, _key(example["input"]["sign0"]["key"]))
    else:
        cose.verify_sign1(sign1, _key(example["input"]["sign0"]["key"]))


@pytest.mark.parametrize("algorithm", cose.ALGORITHMS, ids=lambda one: one.name)
def test_openssl_checks_what_we_sign(algorithm, tmp_path):
    key = ec.generate_private_key({"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}[algorithm.curve])
    sign1 = cose.sign_sign1(b"payload", algorithm, cose.key_signer(key))
    assert sign1 == cose.sign_sign1(b"payload", algorithm, cose.key_signer(key)), "deterministic"
    assert cose.parse_sign1(sign1.encode(), (algorithm,)) == sign1
    cose.verify_sign1(sign1, key.public_key())
    size = algorithm.coordinate
    der = encode_dss_signature(int.from_bytes(sign1.signature[:size], "big"), int.from_bytes(sign1.signature[size:], "big"))
    (tmp_path / "signature").write_bytes(der)
    (tmp_path / "message").write_bytes(sign1.sig_structure())
    (tmp_path / "key.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    command = ["openssl", "dgst", f"-{algorithm.hash.name}", "-verify", "key.pem", "-signature", "signature", "message"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "Verified OK\n"


@pytest.fixture(scope="module")
def message():
    key = ec.generate_private_key(ec.SECP384R1())
    return key, cose.sign_sign1(b"payload", cose.ES384, cose.key_signer(key))


@pytest.mark.parametrize(
    ("items", "slug"),
    [
        ([b"\xa1\x01\x38\x22", {}, b"p"], "not-sign1"), ([1, {}, b"p", bytes(96)], "not-sign1"), ([b"\xa1\x01\x38\x22", {}, "p", bytes(96)], "not-sign1"),
        ([b"\xa1\x01\x38\x22", {4: b"x"}, b"p", bytes(96)], "unprotected-header"), ([b"\xa1\x01\x38\x22", [], b"p", bytes(96)], "unprotected-header"),
        ([b"\xa1\x01\x38\x22", {}, b"", bytes(96)], "payload-size"), ([b"\xa1\x01\x38\x22", {}, bytes(16385), bytes(96)], "payload-size"),
        ([b"\xa1\x01\x26", {}, b"p", bytes(96)], "algorithm"), ([b"", {}, b"p", bytes(96)], "algorithm"), ([b"\xa2\x01\x38\x22\x04\x40", {}, b"p", bytes(96)], "algorithm"),
        ([b"\xbf\x01\x38\x22\xff", {}, b"p", bytes(96)], "algorithm"), ([b"\xa1\x01\x38\x22", {}, b"p", bytes(95)], "signature-size"),
        ([b"\xa1\x01\x38\x22", {}, b"p", bytes(97)], "signature-size"), ({}, "not-sign1"),
    ],
)  # fmt: skip
def test_another_form_is_refused(items, slug):
    with pytest.raises(cose.CoseError) as caught:
        cose.parse_sign1(cbor2.dumps(items), (cose.ES384,))
    assert caught.value.slug == slug


def test_the_payload_may_have_its_largest_size():
    assert len(cose.parse_sign1(cbor2.dumps([b"\xa1\x01\x38\x22", {}, bytes(16384), bytes(96)]), (cose.ES384,)).payload) == 16384


def test_a_high_s_is_allowed(message):
    key, sign1 = message
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    s = order - int.from_bytes(sign1.signature[48:], "big")
    cose.verify_sign1(cose.CoseSign1(sign1.protected, sign1.payload, sign1.signature[:48] + s.to_bytes(48, "big")), key.public_key())


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96])
def test_numbers_out_of_range_do_not_verify(message, signature):
    key, sign1 = message
    with pytest.raises(cose.CoseError) as caught:
        cose.verify_sign1(cose.CoseSign1(sign1.protected, sign1.payload, signature), key.public_key())
    assert caught.value.slug == "bad-signature"


def test_the_key_decides_the_algorithm(message):
    _, sign1 = message
    with pytest.raises(cose.CoseError) as caught:
        cose.verify_sign1(sign1, ec.generate_private_key(ec.SECP256R1()).public_key())
    assert caught.value.slug == "algorithm"
    for key in (rsa.generate_private_key(65537, 2048).public_key(), ec.generate_private_key(ec.SECP256K1()).public_key()):
        with pytest.raises(cose.CoseError) as caught:
            cose.algorithm_of(key)
        assert caught.value.slug == "key"
