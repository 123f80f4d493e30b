"""The EIF's signature section: made, checked, described; certificates by openssl."""

import base64
import io
import subprocess
import zlib
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nitrokit.core import cose
from nitrokit.core import measurements as m
from nitrokit.core.eif import EifError, Signer, read_eif, sign_eif, write_eif
from nitrokit.core.eif.signature import make_signature, parse_signature

CURVES = {"prime256v1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def _openssl(folder, *arguments):
    return subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    """Curve → signer, keys and certificates made by openssl."""
    found = {}
    for curve in [*CURVES, "other"]:
        folder = tmp_path_factory.mktemp(curve)
        _openssl(folder, "ecparam", "-name", "secp384r1" if curve == "other" else curve, "-genkey", "-noout", "-out", "key.pem")
        _openssl(
            folder,
            "req",
            "-x509",
            "-new",
            "-key",
            "key.pem",
            "-sha384",
            "-days",
            "30",
            "-subj",
            "/C=US/O=Example/CN=signer",
            "-out",
            "cert.pem",
        )
        key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
        found[curve] = Signer((folder / "cert.pem").read_bytes(), cose.key_signer(key)), folder  # type: ignore[arg-type]
    return found


def _written(signer=None):
    file = io.BytesIO()
    measured = write_eif(file, kernel=b"k", cmdline="c", ramdisks=[b"a", b"b"], metadata={}, signer=signer)
    return file.getvalue(), measured


@pytest.mark.parametrize("curve", CURVES)
def test_a_signed_image_holds_and_says_by_whom(signers, curve):
    signer, folder = signers[curve]
    data, measured = _written(signer)
    eif = read_eif(data)
    assert eif.signature is not None
    assert cose.named_algorithm(eif.signature.sign1).name == CURVES[curve]
    assert eif.signature.holds(measured.pcr0)
    certificate = x509.load_pem_x509_certificate(signer.certificate)
    assert eif.measurements.pcr8 == m.pcr8(certificate.public_bytes(serialization.Encoding.DER))
    assert (eif.measurements.pcr0, eif.measurements.pcr1, eif.measurements.pcr2) == (measured.pcr0, measured.pcr1, measured.pcr2)
    description = eif.describe()
    assert list(description)[:6] == ["EifVersion", "Measurements", "IsSigned", "SigningCertificate", "CheckCRC", "SignatureCheck"]
    assert (description["IsSigned"], description["SignatureCheck"]) == (True, True)
    told = description["SigningCertificate"]
    assert told["IssuerName"] == {"commonName": "signer", "countryName": "US", "organizationName": "Example"}
    assert told["Algorithm"] == "ecdsa-with-SHA384"
    dates = _openssl(folder, "x509", "-in", "cert.pem", "-noout", "-dates").split("\n")
    assert [f"notBefore={told['NotBefore']}", f"notAfter={told['NotAfter']}"] == dates[:2], "as OpenSSL prints them"
    text = "".join(_openssl(folder, "x509", "-in", "cert.pem", "-noout", "-text", "-certopt", "ca_default,no_sigdump").split())
    assert "signer" in text
    assert bytes.fromhex(told["Signature"].replace(":", "")) == certificate.signature


def test_signing_changes_no_measurement_and_can_be_done_again(signers):
    plain, measured = _written()
    for curve in ("prime256v1", "other"):
        file = io.BytesIO()
        assert sign_eif(read_eif(plain), file, signers[curve][0]) == measured
        plain = file.getvalue()
        eif = read_eif(plain)
        assert eif.signature is not None and eif.signature.holds(measured.pcr0)
        assert eif.measurements.pcr8 == eif.signature.pcr8


def test_a_signature_over_another_image_does_not_hold_and_gives_no_pcr8(signers):
    """The kernel is another than the one that was signed, and the CRC is made right."""
    other = io.BytesIO()
    write_eif(other, kernel=b"other", cmdline="c", ramdisks=[b"a", b"b"], metadata={}, signer=signers["secp384r1"][0])
    data = bytearray(other.getvalue())
    at = data.index(b"other")
    data[at : at + 5] = b"image"
    data[544:548] = zlib.crc32(data[548:], zlib.crc32(data[:544])).to_bytes(4, "big")
    eif = read_eif(bytes(data))
    assert eif.signature is not None and not eif.signature.holds(eif.measurements.pcr0)
    assert eif.measurements.pcr8 is None
    description = eif.describe()
    assert (description["SignatureCheck"], description["Measurements"]["PCR8"]) == (False, eif.signature.pcr8.hex()), (
        "as nitro-cli prints it"
    )


def test_dates_are_checked_at_a_time(signers):
    signature = read_eif(_written(signers["prime256v1"][0])[0]).signature
    assert signature is not None
    now = datetime.now(UTC)
    assert [signature.valid_at(now + timedelta(days=days)) for days in (-1, 0, 29, 31)] == [False, True, True, False]


def test_the_certificate_and_the_key_must_belong_together(signers):
    with pytest.raises(EifError) as caught:
        _written(Signer(signers["secp384r1"][0].certificate, signers["other"][0].sign))
    assert caught.value.slug == "signing-key"


def test_only_such_certificates_can_sign(signers, tmp_path):
    _openssl(tmp_path, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-subj", "/CN=x", "-out", "cert.pem")
    for pem in (b"", b"x", (tmp_path / "cert.pem").read_bytes()):
        with pytest.raises(EifError) as caught:
            make_signature(bytes(48), pem, signers["other"][0].sign)
        assert caught.value.slug == "signing-certificate"


def test_a_section_has_its_limit(signers):
    signer = signers["secp384r1"][0]
    with pytest.raises(EifError) as caught:
        make_signature(bytes(48), signer.certificate + b"\n" * 32_000, signer.sign)
    assert caught.value.slug == "signature-size"


@pytest.fixture(scope="module")
def section(signers):
    signer = signers["secp384r1"][0]
    return make_signature(bytes(48), signer.certificate, signer.sign)


def test_the_form_is_that_of_the_description(section, signers):
    """aws-nitro-enclaves-image-format:README.md "EifSectionSignature": arrays of integers, an untagged COSE_Sign1, {register_index, register_value}."""
    (one,) = cbor2.loads(section)
    assert list(one) == ["signing_certificate", "signature"]
    assert bytes(one["signing_certificate"]) == signers["secp384r1"][0].certificate
    protected, unprotected, payload, signature = cbor2.loads(bytes(one["signature"]))
    assert (cbor2.loads(protected), unprotected, len(signature)) == ({1: -35}, {}, 96)
    assert cbor2.loads(payload) == {"register_index": 0, "register_value": [0] * 48}


def _broken(section, signers):
    (one,) = cbor2.loads(section)
    key = signers["secp384r1"][0].sign

    def signed(payload):
        return [{**one, "signature": list(cose.sign_sign1(cbor2.dumps(payload), cose.ES384, key).encode())}]

    yield from (
        {},
        [],
        [one, one],
        [1],
        [{**one, "x": 1}],
        [{"signature": one["signature"]}],
        [{**one, "signature": bytes(one["signature"])}],
    )
    yield from ([{**one, "signing_certificate": [256]}], [{**one, "signing_certificate": [True]}], [{**one, "signature": [1]}])
    yield from map(
        signed, ({}, {"register_index": 1, "register_value": [0] * 48}, {"register_index": False, "register_value": [0] * 48}, 5)
    )
    yield from map(signed, ({"register_index": 0, "register_value": [0] * 47}, {"register_index": 0, "register_value": bytes(48)}))


def test_malformed_sections_are_our_errors(section, signers):
    for value in _broken(section, signers):
        with pytest.raises(EifError) as caught:
            parse_signature(cbor2.dumps(value))
        assert caught.value.slug in ("signature", "signing-certificate")
    for data in (b"", section[:-1], section + b"\0"):
        with pytest.raises(EifError):
            parse_signature(data)


def test_a_tampered_signature_does_not_hold(section, signers):
    (one,) = cbor2.loads(section)
    one["signature"][-1] ^= 1
    assert not parse_signature(cbor2.dumps([one])).holds(bytes(48))
    assert parse_signature(section).holds(bytes(48))
    assert not parse_signature(section).holds(b"\1" * 48)


def test_a_full_section_table_leaves_no_room_for_a_signature(signers):
    file = io.BytesIO()
    write_eif(file, kernel=b"k", cmdline="c", ramdisks=[b"r"] * 29, metadata={})
    with pytest.raises(EifError) as caught:
        sign_eif(read_eif(file), io.BytesIO(), signers["secp384r1"][0])
    assert caught.value.slug == "section-count"


def test_a_certificate_whose_name_nobody_can_read_is_our_error(section, signers):
    """Found by the fuzzer: names are read late, and were read outside of what turns errors into ours."""
    certificate = x509.load_pem_x509_certificate(signers["secp384r1"][0].certificate)
    der = certificate.public_bytes(serialization.Encoding.DER).replace(b"Example", b"\xff" * 7)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    (one,) = cbor2.loads(section)
    with pytest.raises(EifError) as caught:
        parse_signature(cbor2.dumps([{**one, "signing_certificate": list(pem)}]))
    assert caught.value.slug == "signing-certificate"
