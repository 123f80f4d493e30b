"""Signing images: by key file, and by a KMS key (moto's, which signs for real)."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from moto import mock_aws

from nitrokit.core.eif import EifError, Signer, read_eif, write_eif
from nitrokit.errors import UsageError
from nitrokit.image.signing import SigningError, here, key_file, kms_key, sign_file

NOW = datetime.now(UTC)


def _certificate(public_key, start=NOW - timedelta(days=1), end=NOW + timedelta(days=90)):
    """A certificate of any public key, as a CA would give it."""
    authority = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public_key).serial_number(1)
    return builder.not_valid_before(start).not_valid_after(end).sign(authority, SHA384()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def eif(tmp_path):
    path = tmp_path / "image.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"k", cmdline="c", ramdisks=[b"a", b"b"], metadata={})
    return path


@pytest.fixture
def key(tmp_path):
    private = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "key.pem"
    path.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return private, path


def _nitrokit(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_command_signs_in_place_and_measure_agrees(eif, key, tmp_path):
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(_certificate(key[0].public_key()))
    before = read_eif(eif.read_bytes()).measurements
    told = json.loads(_nitrokit("sign", eif, "--certificate", certificate, "--key", key[1], "--json").stdout)
    measured = json.loads(_nitrokit("measure", eif).stdout)
    assert (measured["SignatureCheck"], measured["Measurements"]["PCR8"], measured["Measurements"]["PCR0"]) == (
        True,
        told["pcr8"],
        before.pcr0.hex(),
    )
    again = _nitrokit("sign", eif, "--certificate", certificate, "--key", key[1], "-o", tmp_path / "other.eif")
    assert again.returncode == 0 and "PCR8" in again.stdout
    assert (tmp_path / "other.eif").read_bytes() == eif.read_bytes(), "deterministic, and signing again replaces"


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"])
def test_a_kms_key_signs_without_leaving_kms(eif, spec, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with mock_aws():
        kms = boto3.client("kms", region_name="eu-west-1")
        arn = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
        certificate = _certificate(serialization.load_der_public_key(kms.get_public_key(KeyId=arn)["PublicKey"]))
        regions = []
        sign = kms_key(arn, certificate, lambda region: regions.append(region) or kms)  # type: ignore[func-returns-value]
        signature = sign_file(eif, eif, Signer(certificate, sign), time=NOW)
        assert regions == ["eu-west-1"]
        assert signature.holds(read_eif(eif.read_bytes()).measurements.pcr0)
        gone = kms_key(arn.replace(arn[-4:], "0000"), certificate, lambda _: kms)
        with pytest.raises(SigningError) as caught:
            gone(b"message")
        assert caught.value.slug == "kms"


@pytest.mark.parametrize("dates", [(NOW - timedelta(days=9), NOW - timedelta(days=1)), (NOW + timedelta(days=1), NOW + timedelta(days=9))])
def test_a_certificate_that_would_not_start_signs_nothing(eif, key, dates):
    before = eif.read_bytes()
    with pytest.raises(SigningError) as caught:
        sign_file(eif, eif, Signer(_certificate(key[0].public_key(), *dates), key_file(key[1])), time=NOW)
    assert caught.value.slug == "certificate-dates"
    assert eif.read_bytes() == before


def test_a_failure_leaves_the_image_as_it_was(eif, key):
    before, stranger = eif.read_bytes(), ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(EifError) as caught:
        sign_file(eif, eif, Signer(_certificate(stranger.public_key()), key_file(key[1])), time=NOW)
    assert caught.value.slug == "signing-key"
    assert eif.read_bytes() == before
    assert list(eif.parent.glob(".image*")) == []


def test_wrong_keys_and_files_are_told(eif, key, tmp_path):
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(_certificate(key[0].public_key()))
    encrypted, other = tmp_path / "encrypted.pem", tmp_path / "other.pem"
    encrypted.write_bytes(
        key[0].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"p"))
    )
    other.write_text("x")
    for path, slug in ((encrypted, "bad-key"), (other, "bad-key"), (tmp_path / "none", "unreadable-file")):
        with pytest.raises(UsageError) as caught:
            key_file(path)
        assert caught.value.slug == slug
    before = eif.read_bytes()
    for arguments, code in (
        ((), "usage/no-key"), (("--key", key[1], "--kms-key", "arn"), "usage/no-key"), (("--key", key[1], "--kms-key", ""), "usage/no-key"), (("--key", tmp_path / "none"), "usage/unreadable-file"),
        (("--kms-key", "alias/x"), "usage/bad-key-arn"), (("--kms-key", ""), "usage/bad-key-arn"),
    ):  # fmt: skip
        done = _nitrokit("sign", eif, "--certificate", certificate, *arguments)
        assert (done.returncode, f"[{code}]" in done.stderr) == (2, True), done.stderr
    assert eif.read_bytes() == before
    assert _nitrokit("sign", tmp_path / "none.eif", "--certificate", certificate, "--key", key[1]).returncode == 2
    assert _nitrokit("sign", Path(__file__), "--certificate", certificate, "--key", key[1]).returncode == 1


@pytest.mark.parametrize(
    "arn",
    [
        "12345678-1234-1234-1234-123456789012", "arn:aws:kms:eu-west-1:123456789012:alias/x", "arn:aws:kms:eu-west-1:123456789012:key/", "arn:aws:kms:eu-west-1:123456789012:key/x\n",
        "arn:aws:kms:-:123456789012:key/x", "arn:aws:kms:eu-west-1-:123456789012:key/x", "arn:aws:kms::123456789012:key/x", f"arn:aws:kms:{'a' * 64}:123456789012:key/x",
        "arn:aws:kms:EU-WEST-1:123456789012:key/x", "arn:aws:kms:eu-west-1:12345678901:key/x", "arn:aws:s3:eu-west-1:123456789012:key/x",
    ],
)  # fmt: skip
def test_an_arn_that_is_no_keys_is_refused_before_a_client_is_made(key, arn):
    with pytest.raises(UsageError) as caught:
        kms_key(arn, _certificate(key[0].public_key()), lambda region: pytest.fail(f"a client for {region}"))
    assert (caught.value.code, "by its ARN" in str(caught.value)) == ("usage/bad-key-arn", True)


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "a" * 63])
def test_every_region_that_an_arn_may_name_has_a_client(key, region, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    kms_key(f"arn:aws-us-gov:kms:{region}:123456789012:key/mrk-1", _certificate(key[0].public_key()), here().client)


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL", "nonsense"), ("AWS_CONFIG_FILE", "TORN")])
def test_an_aws_configuration_that_leads_nowhere_is_told_and_signs_nothing(eif, key, tmp_path, name, value):
    certificate, torn, before = tmp_path / "cert.pem", tmp_path / "torn", eif.read_bytes()
    certificate.write_bytes(_certificate(key[0].public_key()))
    torn.write_text("garbage")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nitrokit.cli",
            "sign",
            str(eif),
            "--certificate",
            str(certificate),
            "--kms-key",
            "arn:aws:kms:eu-west-1:123456789012:key/x",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AWS_CONFIG_FILE": "/nowhere", name: value.replace("TORN", str(torn))},
    )
    assert (done.returncode, "[environment/aws-client]" in done.stderr, "Traceback" in done.stderr) == (3, True, False), done.stderr
    assert "do this:  check AWS_PROFILE, AWS_ENDPOINT_URL" in done.stderr
    assert eif.read_bytes() == before


def test_a_certificate_that_ends_soon_is_warned_of(eif, key, tmp_path):
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(_certificate(key[0].public_key(), end=NOW + timedelta(days=5)))
    done = _nitrokit("sign", eif, "--certificate", certificate, "--key", key[1])
    assert (done.returncode, "ends within 30 days" in done.stderr) == (0, True)


def test_doctor_tells_certificates_that_have_ended_or_soon_will(key, tmp_path):
    from nitrokit.cli.certificates import certificate_findings

    days = {"good": 90, "soon": 29, "ended": -1, "future": 90}
    for name, end in days.items():
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        start = NOW + timedelta(days=2 if name == "future" else -9)
        (folder / "c.pem").write_bytes(_certificate(key[0].public_key(), start, NOW + timedelta(days=end)))
        (folder / "enclave.toml").write_text(SIGNED)
    for name, text in {
        "unsigned": SIGNED.partition("[signing]")[0],
        "missing": SIGNED,
        "torn": "x",
        "node_modules/foreign": "x",
        ".hidden": "x",
    }.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "enclave.toml").write_text(text)
    found = {one.name.rsplit("/", 1)[1]: one for one in certificate_findings(tmp_path, time=NOW)}
    assert {name: one.state for name, one in found.items()} == {
        "ended": "wrong", "future": "wrong", "good": "ok", "missing": "wrong", "soon": "soon", "torn": "wrong",
    }  # fmt: skip
    assert all("PCR8" in found[name].remedy for name in ("ended", "soon"))
    done = _nitrokit("doctor", tmp_path / "images" / "ended", "--json")
    assert done.returncode in (1, 3), "3 where the machine itself lacks something"
    assert json.loads(done.stdout)[-1]["state"] == "wrong"
    assert "not valid now" in _nitrokit("doctor", tmp_path / "images" / "ended").stdout


SIGNED = '[enclave]\nname = "x"\n[rootfs]\npath = "r"\n[signing]\ncertificate = "c.pem"\nkey = "k.pem"\n'
