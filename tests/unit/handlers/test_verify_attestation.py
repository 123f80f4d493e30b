"""verify_attestation: real documents of AWS and of the emulated PKI; requests and responses by the published schema, checked with another validator than the function's."""

import base64
import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import jsonschema
import pytest

from nitrokit.core.attestation import parse_document
from nitrokit.core.measurements import Measurements, digest, pcr8
from nitrokit.core.nsm import NsmClient
from nitrokit.errors import NitrokitError
from nitrokit.handlers import verify_attestation
from nitrokit.handlers.verdict import NAMES, failing_check
from nitrokit.handlers.verify_attestation import SCHEMA, RequestError, answer

NONCE = secrets.token_bytes(32)
ROOT = Path(__file__).parents[3]


def _text(data):
    return base64.b64encode(data).decode()


def _valid(kind, value):
    jsonschema.Draft7Validator({"definitions": SCHEMA["definitions"], **SCHEMA["definitions"][kind]}).validate(value)
    return value


@pytest.fixture
def environment(pki):
    return {"TRUST_ANCHOR": _text(pki.trust_anchor.der)}


@pytest.fixture
def request_for(make_nsm, measurements):
    def make(*, fields=(), **changes):
        document = NsmClient(make_nsm(**changes).answer).attestation(nonce=NONCE, **dict(fields))
        return {"document": _text(document), "nonce": _text(NONCE), "reference": measurements.as_object()}

    return make


def _ask(request, environment, now=None):
    _valid("request", request)
    return _valid("response", answer(request, environment, lambda zone: now or datetime.now(zone)))


def _outcomes(response):
    return {check["number"]: check["outcome"] for check in response["checks"]}


def test_pass_tells_every_check_and_what_was_not_asked(request_for, environment):
    response = _ask(request_for(), environment)
    assert (response["verdict"], response["code"], response["reason"]) == ("PASS", None, None)
    assert _outcomes(response) == {**dict.fromkeys(range(1, 16), "held"), 16: "not-asked", 17: "not-asked", 18: "not-asked"}
    assert response["document"]["nonce"] == NONCE.hex()


def test_everything_that_can_be_demanded_is_demanded(request_for, environment):
    request = request_for(fields={"user_data": b"u", "public_key": b"k"})
    demands = {
        "host_role_arn": "arn:aws:iam::123456789012:role/host", "instance_id": "i-0123456789abcdef0", "module_id": "i-0123456789abcdef0-enc0123456789abcde",
        "user_data": _text(b"u"), "public_key": _text(b"k"),
    }  # fmt: skip
    assert set(_outcomes(_ask({**request, **demands}, environment)).values()) == {"held"}
    for name, value in {**demands, "user_data": _text(b"v"), "region": "eu-west-1", "pcrs": {"16": "ab" * 48}}.items():
        other = {"module_id": "x", "instance_id": "i-00000000000000000", "host_role_arn": "arn:aws:iam::1" + "2" * 11 + ":role/other"}
        wrong = {"public_key": _text(b"l")}.get(name, other.get(name, value))
        assert _ask({**request, name: wrong}, environment)["verdict"] == "FAIL", name


@pytest.mark.parametrize(
    ("change", "code", "number"),
    [
        ({"debug": True}, "appraisal/debug", 12),
        ({"measurements": Measurements(digest([b"x"]), digest([b"y"]), digest([b"z"]))}, "appraisal/measurements", 15),
    ],
)
def test_another_image_and_a_debug_enclave_fail_by_their_check(request_for, environment, change, code, number):
    response = _ask(request_for(**change), environment)
    assert (response["verdict"], response["code"]) == ("FAIL", code)
    assert _outcomes(response)[number] == "failed"
    assert all(_outcomes(response)[one] == "held" for one in range(1, 12))
    assert [one["pcr"] for one in response["differences"]] == [0, 1, 2]


def test_another_nonce_an_old_document_and_a_slow_clock(request_for, environment):
    request = request_for()
    assert _ask({**request, "nonce": _text(b"n" * 32)}, environment)["code"] == "appraisal/nonce"
    for minutes, code in ((6, "appraisal/stale"), (1, None), (-0.9, None), (-1.1, "verification/validity"), (240, "verification/validity")):
        assert _ask(request, environment, datetime.now(UTC) + timedelta(minutes=minutes))["code"] == code, minutes
    assert _ask({**request, "max_age_seconds": 420}, environment, datetime.now(UTC) + timedelta(minutes=6))["code"] is None


def test_a_retiring_set_counts_until_its_date(request_for, environment, measurements):
    now = datetime.now(UTC).replace(microsecond=0)
    current = Measurements(digest([b"new"]), digest([b"new init"]), digest([b"new app"])).as_object()

    def rollover(date):
        text = date.isoformat().replace("+00:00", "Z")
        return {**request_for(), "reference": {**current, "Retiring": [{**measurements.as_object(), "RetireAfter": text}]}}, text

    request, text = rollover(now + timedelta(hours=1))
    response = _ask(request, environment)
    assert (response["verdict"], response["retire_after"]) == ("PASS", text)
    request, _ = rollover(now - timedelta(hours=1))
    response = _ask(request, environment)
    assert (response["code"], _outcomes(response)[15]) == ("appraisal/retired", "failed")


def test_real_documents_verify_at_their_own_time_and_not_now(vectors):
    index = json.loads((vectors / "attestation-index.json").read_text())
    seen = set()
    for path in sorted((vectors / "attestation").glob("*.bin")):
        data = path.read_bytes()
        document = parse_document(data)
        pcrs = {f"PCR{number}": (document.pcrs[number] if any(document.pcrs[number]) else b"\x01" * 48).hex() for number in (0, 1, 2)}
        request = {"document": _text(data), "reference": {"Measurements": pcrs}, "archived": True}
        try:
            response = _ask(request, {})
        except NitrokitError as error:
            assert error.code == "appraisal/empty-pcr2"
            continue
        seen.add((document.is_tpm, response["code"]))
        fresh = {**request, "nonce": _text(document.nonce or b"n"), "archived": False}
        assert _ask(fresh, {})["verdict"] == "FAIL"
    assert {(True, "verification/not-an-enclave"), (False, None), (False, "appraisal/debug")} <= seen, (seen, len(index))


def test_production_does_not_trust_the_emulation(request_for):
    response = _ask(request_for(), {})
    assert (response["code"], response["document"], _outcomes(response)[4]) == ("verification/root", None, "failed")


ES384 = cbor2.dumps({1: -35})
FIELDS = {"module_id": "i-1-enc1", "digest": "SHA384", "timestamp": 1, "pcrs": {0: bytes(48)}, "certificate": b"c", "cabundle": [b"c"]}


def _sign1(payload, *, protected=ES384, unprotected=None, signature=bytes(96)):
    return cbor2.dumps([protected, unprotected or {}, payload if isinstance(payload, bytes) else cbor2.dumps(payload), signature])


@pytest.mark.parametrize(
    ("data", "code", "check"),
    [
        (b"", "document/truncated", 2), (b"\x84", "document/truncated", 2), (b"{}", "document/truncated", 2), (bytes(33_000), "document/too-large", 2),
        (b"\xd2\x84\x43\xa1\x01\x26\xa0\x40\x40", "document/payload-size", 2), (cbor2.dumps({}), "document/not-sign1", 1), (_sign1({}, protected=cbor2.dumps({1: -7})), "document/algorithm", 1),
        (_sign1({}, unprotected={4: b"k"}), "document/unprotected-header", 1), (_sign1({}, signature=bytes(95)), "document/signature-size", 1),
        (_sign1(b""), "document/payload-size", 2), (_sign1([]), "document/not-a-map", 2), (_sign1({1: 2}), "document/not-a-map", 2), (_sign1({}), "document/missing-field", 3),
        (_sign1({**FIELDS, "x": 1}), "document/unknown-field", 3), (_sign1({**FIELDS, "module_id": ""}), "document/field", 3),
    ],
)  # fmt: skip
def test_garbage_is_a_fail_with_its_check(data, code, check, environment, measurements):
    """The numbers are those of docs/attestation_verification.md."""
    response = _ask({"document": _text(data), "nonce": _text(NONCE), "reference": measurements.as_object()}, environment)
    outcomes = _outcomes(response)
    assert (response["verdict"], response["code"], response["document"]) == ("FAIL", code, None)
    assert outcomes == {number: "failed" if number == check else "not-reached" for number in NAMES}


def test_every_error_of_the_three_stages_has_its_check():
    codes = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    of_policies = {
        "archived-age",
        "bad-pcr",
        "contradiction",
        "empty-nonce",
        "empty-pcr2",
        "empty-policy",
        "zero-pcr",
        "naive-time",
        "not-a-tpm",
        "unrecognized",
    }
    told = {code for code in codes if code.split("/")[0] in ("verification", "appraisal") and code.split("/")[1] not in of_policies}
    told |= {"appraisal/measurements", "appraisal/parent", "appraisal/pcr"}
    for code in told:
        area, slug = code.split("/")
        error = type("E", (NitrokitError,), {"area": area})(slug, "x")
        from nitrokit.handlers.verdict import _FAILS

        assert slug in _FAILS[area], code
        assert failing_check(error) in NAMES


# Requests


@pytest.mark.parametrize(
    "change",
    [
        {"document": 1}, {"document": "é"}, {"reference": {}}, {"reference": "../x"}, {"unknown": 1}, {"max_age_seconds": 0}, {"max_age_seconds": True}, {"nonce": ""}, {"pcrs": {"32": "ab" * 48}},
        {"pcrs": {"16": "ab"}}, {"archived": "yes"}, {"document": "A" * 45_001},
    ],
)  # fmt: skip
def test_what_the_schema_does_not_have_is_refused_by_both_validators(change, request_for, environment):
    request = {**request_for(), **change}
    with pytest.raises(jsonschema.ValidationError):
        _valid("request", request)
    with pytest.raises(RequestError) as caught:
        answer(request, environment, datetime.now)
    assert caught.value.code == "request/schema"


@pytest.mark.parametrize("request_", [None, [], "x", {}, {"document": "", "reference": {"Measurements": {}}}])
def test_what_is_no_request_is_our_error(request_, environment):
    with pytest.raises(RequestError):
        answer(request_, environment, datetime.now)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"document": "A"}, "request/base64"),
        ({"reference": "hello"}, "request/unknown-reference"),
        ({"reference": {"Measurements": {"PCR0": "00"}}}, "measurements/bad-pcr"),
        ({"reference": {"Measurements": {f"PCR{number}": "00" * 48 for number in (0, 1, 2)}}}, "appraisal/zero-pcr"),
        ({"archived": True, "max_age_seconds": 5}, "request/archived-age"),
        ({"instance_id": "x"}, "measurements/instance-id"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(change, code, request_for, environment):
    with pytest.raises(NitrokitError) as caught:
        answer({**request_for(), **change}, environment, datetime.now)
    assert caught.value.code == code


def test_a_lock_is_named_by_its_enclave(request_for, environment, measurements, monkeypatch):
    from moto import mock_aws

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    verify_attestation._deployed.cache_clear()
    with mock_aws():
        import boto3

        ssm = boto3.client("ssm")
        for number in range(12):  # more than one page
            fleet = {
                "name": f"hello-{number}", "document": "d", "host_role_arn": "arn:aws:iam::1:role/x", "targets": [{"key": "InstanceIds", "values": ["i-0123456789abcdef0"]}],
                "reference": measurements.as_object(),
            }  # fmt: skip
            ssm.put_parameter(Name=f"/nitrokit/x/fleets/{number}", Value=json.dumps(fleet), Type="String")
        environment = {**environment, "SETTINGS_PATH": "/nitrokit/x"}
        assert _ask({**request_for(), "reference": "hello-11"}, environment)["verdict"] == "PASS"
        with pytest.raises(RequestError, match="hello-7"):
            answer({**request_for(), "reference": "other"}, environment, datetime.now)
    verify_attestation._deployed.cache_clear()


def test_pcr8_by_the_certificate(request_for, environment, measurements):
    signed = Measurements(measurements.pcr0, measurements.pcr1, measurements.pcr2, pcr8(b"certificate"))
    request = {**request_for(measurements=signed), "reference": signed.as_object()}
    assert _ask({**request, "signing_certificate": _text(b"certificate")}, environment)["verdict"] == "PASS"
    with pytest.raises(NitrokitError, match="two values for PCR8"):
        answer({**request, "signing_certificate": _text(b"other")}, environment, datetime.now)


# The Function URL (events in the form of AWS Lambda Developer Guide "Function URL request and response payloads")


def _url(body="", method="POST", encoded=False):
    return {"version": "2.0", "rawPath": "/", "requestContext": {"http": {"method": method}}, "body": body, "isBase64Encoded": encoded}


def test_the_url_answers_by_status(request_for, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    request = json.dumps(request_for())
    for event in (_url(request), _url(_text(request.encode()), encoded=True)):
        response = verify_attestation.handler(event, None)
        assert (response["statusCode"], json.loads(response["body"])["verdict"]) == (200, "PASS")
    assert json.loads(verify_attestation.handler(_url(method="GET"), None)["body"]) == SCHEMA
    for event, status, code in [
        (_url("{"), 400, "request/json"), (_url("é", encoded=True), 400, "request/json"), (_url("[" * 100_000), 400, "request/json"), (_url("[]"), 400, "request/schema"),
        (_url(method="PUT"), 405, "request/method"),
    ]:  # fmt: skip
        response = verify_attestation.handler(event, None)
        assert (response["statusCode"], json.loads(response["body"])["error"]["code"]) == (status, code)


def test_the_direct_invocation_raises_by_class(request_for):
    with pytest.raises(RequestError, match=r"request/schema"):
        verify_attestation.handler({"nonsense": 1}, None)
    assert verify_attestation.handler(request_for(), None)["code"] == "verification/root"


def test_the_schema_is_a_schema_and_documented():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    page = (ROOT / "docs/monitoring.md").read_text()
    for name in SCHEMA["definitions"]["request"]["properties"]:
        assert f"`{name}`" in page, name
