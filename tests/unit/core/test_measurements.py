"""PCR values and measurements.json."""

import hashlib
import json

import pytest

from nitrokit.core import measurements as m

ONE = m.Measurements(m.digest([b"a"]), m.digest([b"b"]), m.digest([b"c"]))
SIGNED = m.Measurements(ONE.pcr0, ONE.pcr1, ONE.pcr2, m.pcr8(b"certificate"))


def test_published_values():
    """Nitro Enclaves User Guide, "Cryptographic attestation": the examples of PCR3 and PCR4; the measurement of nothing, as documents in the wild have it."""
    assert m.pcr3("arn:aws:iam::123456789012:role/Webserver").hex().startswith("78fce75d")
    assert m.pcr4("i-1234567890abcdef0").hex().startswith("08f996b5")
    empty = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
    assert m.EMPTY_PCR2.hex() == empty


def test_the_two_formulas_differ():
    arn = "arn:aws:iam::123456789012:role/path/Webserver"
    assert m.pcr3(arn) == hashlib.sha384(bytes(48) + arn.encode()).digest() != m.digest([arn.encode()])
    assert m.digest([b"a", bytearray(b"b"), memoryview(b"c")]) == hashlib.sha384(bytes(48) + hashlib.sha384(b"abc").digest()).digest()
    assert m.extend(m.ZERO, b"data") == hashlib.sha384(bytes(48) + b"data").digest()


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "x",
        "arn:aws:iam::123456789012:instance-profile/Webserver",
        "arn:aws:sts::123456789012:assumed-role/Webserver/i-1",
        "arn:aws:iam::12345:role/x",
        "arn:aws:iam::123456789012:role/",
    ],
)
def test_only_a_roles_arn_is_measured(arn):
    with pytest.raises(m.MeasurementsError) as caught:
        m.pcr3(arn)
    assert caught.value.slug == "role-arn"


@pytest.mark.parametrize("instance", ["", "i-", "i-xyz", "i-0123456789abcdef01", "mi-0123456789abcdef0", "i-0123456789ABCDEF0"])
def test_only_an_instances_id_is_measured(instance):
    with pytest.raises(m.MeasurementsError) as caught:
        m.pcr4(instance)
    assert caught.value.slug == "instance-id"


@pytest.mark.parametrize("one", [ONE, SIGNED])
def test_the_file_is_canonical(one):
    text = one.to_json()
    assert m.Measurements.parse(text) == one
    assert m.Measurements.parse(text).to_json() == text
    assert json.loads(text)["Measurements"]["HashAlgorithm"] == "Sha384 { ... }"


@pytest.mark.parametrize(
    "text",
    [
        "Start building the Enclave Image...\nEnclave Image successfully created.\n" + ONE.to_json(), b"\xef\xbb\xbf" + ONE.to_json().encode(), ONE.to_json().encode(),
        json.dumps({f"PCR{index}": value.hex().upper() for index, value in ONE.pcrs().items()}),
        json.dumps({f"PCR{index}": "0x" + value.hex() for index, value in ONE.pcrs().items()} | {"PCR8": None}),
        json.dumps({"EifVersion": 4, "Measurements": json.loads(ONE.to_json())["Measurements"], "IsSigned": False}),
    ],
    ids=["both streams", "BOM", "bytes", "bare, upper case", "0x", "describe-eif"],
)  # fmt: skip
def test_reading_is_lenient(text):
    assert m.Measurements.parse(text) == ONE


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("", "not-json"), ("{", "not-json"), (b"\xff", "not-json"), ("[" * 100_000, "not-json"), ('{"PCR0": 1, "PCR0": 2}', "not-json"), ("[]", "no-measurements"),
        ('{"Measurements": []}', "no-measurements"), ("{}", "bad-pcr"), ('{"PCR0": "00"}', "bad-pcr"), ('{"PCR0": 5}', "bad-pcr"), ('{"PCR0": "' + "é" * 96 + '"}', "bad-pcr"),
        ('{"PCR0": "' + "0" * 97 + '"}', "bad-pcr"), ('{"PCR0": "' + " 0" * 48 + '"}', "bad-pcr"), (ONE.to_json().replace("}\n}", ', "PCR8": "00"}}'), "bad-pcr"),
    ],
)  # fmt: skip
def test_bad_files_are_our_errors(text, slug):
    with pytest.raises(m.MeasurementsError) as caught:
        m.Measurements.parse(text)
    assert caught.value.slug == slug


@pytest.mark.parametrize("length", [0, 47, 49, 96])
@pytest.mark.parametrize("index", [0, 1, 2, 8])
def test_a_value_has_48_bytes(index, length):
    values = {f"pcr{one}": bytes(48) for one in (0, 1, 2, 8)}
    with pytest.raises(m.MeasurementsError) as caught:
        m.Measurements(**{**values, f"pcr{index}": bytes(length)})
    assert (caught.value.code, str(caught.value)) == (
        "measurements/pcr-length", f"PCR{index} has the wrong length [measurements/pcr-length]; got: {length} bytes; expected: 48 bytes",
    )  # fmt: skip


def test_differences_name_index_expected_and_got():
    other = m.Measurements(ONE.pcr0, ONE.pcr0, ONE.pcr2)
    assert [str(one) for one in SIGNED.differences(other)] == [
        f"PCR1 expected {ONE.pcr1.hex()} got {ONE.pcr0.hex()}",
        f"PCR8 expected {SIGNED.pcr8.hex() if SIGNED.pcr8 else ''} got nothing",
    ]
    assert ONE.differences(SIGNED) == []
