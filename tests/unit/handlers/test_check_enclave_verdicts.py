"""The attestation check: real documents of an emulated NSM, real botocore errors; only Systems Manager's two calls are played."""

import base64
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nitrokit.core.measurements import Measurements, digest, pcr4
from nitrokit.core.nsm import NsmClient
from nitrokit.handlers import check_enclave

ROOT = Path(__file__).parents[3]
INSTANCE = "i-0123456789abcdef0"


class _Exceptions:
    class InvocationDoesNotExist(ClientError):  # type: ignore[misc]
        def __init__(self):
            super().__init__({"Error": {"Code": "InvocationDoesNotExist"}}, "GetCommandInvocation")


class PlayedSsm:
    """``host``: nonce → what the attest document printed, or an exception; the first poll finds nothing, as in reality."""

    exceptions = _Exceptions

    def __init__(self, host, status="Success", stderr=""):
        self.host, self.status, self.stderr = host, status, stderr
        self.polls = 0

    def send_command(self, *, InstanceIds, DocumentName, Parameters, TimeoutSeconds):
        assert (InstanceIds, DocumentName) == ([INSTANCE], "attest")
        self.output = self.host(base64.b64decode(Parameters["Nonce"][0], validate=True))
        return {"Command": {"CommandId": "c"}}

    def get_command_invocation(self, *, CommandId, InstanceId):
        self.polls += 1
        if self.polls == 1:
            raise _Exceptions.InvocationDoesNotExist()
        status = "InProgress" if self.polls == 2 else self.status
        return {"Status": status, "StandardOutputContent": self.output, "StandardErrorContent": self.stderr}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(check_enclave, "_POLL", 0.001)


@pytest.fixture
def environment(measurements, pki):
    return {
        "INSTANCE_ID": INSTANCE, "ENCLAVE": "hello", "DOCUMENT_NAME": "attest", "HOST_ROLE_ARN": "arn:aws:iam::123456789012:role/host",
        "MEASUREMENTS": json.dumps([{f"PCR{index}": value.hex() for index, value in measurements.pcrs().items()}]),
        "TRUST_ANCHOR": base64.b64encode(pki.trust_anchor.der).decode(),
    }  # fmt: skip


@pytest.fixture
def host(make_nsm):
    """A parent whose agent prints the enclave's document."""

    def make(*, replace_nonce=None, **changes):
        client = NsmClient(make_nsm(**changes).answer)

        def answer(nonce):
            document = client.attestation(nonce=nonce if replace_nonce is None else replace_nonce)
            return json.dumps({"document": base64.b64encode(document).decode(), "enclave_id": "x"})

        return answer

    return make


def _check(environment, host, now=None, **changes):
    return check_enclave.check(PlayedSsm(host, **changes), environment, lambda zone: now or datetime.now(zone))


def test_the_locked_image_passes_every_check(environment, host):
    result = _check(environment, host())
    assert (result["verdict"], result["reason"], result["differences"]) == ("PASS", None, [])
    assert {check["number"] for check in result["checks"]} == set(range(1, 17))
    assert result["module_id"].startswith(INSTANCE)
    json.dumps(result)


def test_each_check_has_a_nonce_of_its_own(environment, host):
    seen = []
    answer = host()

    def remember(nonce):
        seen.append(nonce)
        return answer(nonce)

    for _ in range(3):
        assert _check(environment, remember)["verdict"] == "PASS"
    assert len(set(seen)) == 3
    assert {len(nonce) for nonce in seen} == {32}


def test_another_image_fails_naming_each_pcr_with_both_values(environment, host, measurements):
    other = Measurements(digest([b"changed"]), measurements.pcr1, digest([b"changed app"]))
    result = _check(environment, host(measurements=other))
    assert result["verdict"] == "FAIL"
    assert result["differences"] == [
        {"pcr": 0, "expected": measurements.pcr0.hex(), "got": other.pcr0.hex()},
        {"pcr": 2, "expected": measurements.pcr2.hex(), "got": other.pcr2.hex()},
    ]


def test_a_debug_enclave_fails(environment, host):
    result = _check(environment, host(debug=True))
    assert result["verdict"] == "FAIL"
    assert "debug" in result["reason"]


def test_an_enclave_on_another_parent_fails_naming_pcr4(environment, host):
    result = _check(environment, host(module_id="i-0fedcba9876543210-enc0123456789abcde"))
    assert result["verdict"] == "FAIL"
    assert result["differences"] == [{"pcr": 4, "expected": pcr4(INSTANCE).hex(), "got": pcr4("i-0fedcba9876543210").hex()}]


@pytest.mark.parametrize("change", [{"replace_nonce": b"n" * 32}, {"role_arn": "arn:aws:iam::123456789012:role/other"}, {"role_arn": None}])
def test_a_replayed_document_or_another_role_fails(environment, host, change):
    assert _check(environment, host(**change))["verdict"] == "FAIL"


def test_without_a_trust_anchor_in_its_environment_only_awss_root_counts(environment, host):
    del environment["TRUST_ANCHOR"]
    result = _check(environment, host())
    assert result["verdict"] == "FAIL"
    assert "verification/root" in result["reason"]


@pytest.mark.parametrize("later", [timedelta(minutes=6), timedelta(hours=4), timedelta(minutes=-5)])
def test_time_is_checked_by_our_clock(environment, host, later):
    assert _check(environment, host(), now=datetime.now(UTC) + later)["verdict"] == "FAIL"


@pytest.mark.parametrize(
    "output", ["", "nonsense", "[]", "{}", '{"document": 1}', '{"document": "é"}', '{"document": "A"}', "[" * 24_000, '{"document": null}']
)
def test_whatever_the_host_prints_is_not_a_pass_and_not_a_crash(environment, output):
    assert _check(environment, lambda nonce: output)["verdict"] == "UNREACHABLE"


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x84" * 4000, b"\xd2\x84\x43\xa1\x01\x26\xa0\x40\x40"])
def test_a_hostile_document_fails(environment, data):
    result = _check(environment, lambda nonce: json.dumps({"document": base64.b64encode(data).decode()}))
    assert (result["verdict"], result["differences"]) == ("FAIL", [])


def test_every_byte_of_the_document_counts(environment, host):
    answer = host()

    def flipped(position):
        def inner(nonce):
            data = bytearray(base64.b64decode(json.loads(answer(nonce))["document"]))
            data[position * len(data) // 40] ^= 1
            return json.dumps({"document": base64.b64encode(bytes(data)).decode()})

        return inner

    assert {_check(environment, flipped(position))["verdict"] for position in range(40)} == {"FAIL"}


@pytest.mark.parametrize("status", ["Failed", "TimedOut", "Cancelled", "DeliveryTimedOut"])
def test_a_host_that_fails_is_unreachable_with_its_own_words(environment, host, status):
    result = _check(environment, host(), status=status, stderr="no enclave hello is running [agent/not-running]")
    assert result["verdict"] == "UNREACHABLE"
    assert "agent/not-running" in result["reason"]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "InvalidInstanceId", "Message": "not connected"}}, "SendCommand"),
        EndpointConnectionError(endpoint_url="https://ssm"),
    ],
)
def test_an_instance_that_is_not_connected_is_unreachable(environment, error):
    def refuse(nonce):
        raise error

    assert _check(environment, refuse)["verdict"] == "UNREACHABLE"


def test_a_host_that_never_answers_is_given_up(environment, host, monkeypatch):
    monkeypatch.setattr(check_enclave, "_ANSWER_WITHIN", 0.05)
    assert _check(environment, host(), status="InProgress")["reason"].startswith("no answer in")


@pytest.mark.parametrize(("debug", "value"), [(False, 1.0), (True, 0.0)])
def test_the_handler_writes_the_metric(environment, host, monkeypatch, capsys, debug, value):
    for name, setting in environment.items():
        monkeypatch.setenv(name, setting)
    monkeypatch.setattr("boto3.client", lambda service: PlayedSsm(host(debug=debug)))
    check_enclave.handler({}, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    metric = next(line for line in lines if "_aws" in line)
    assert metric["AttestationPassed"] == [value]
    directive = metric["_aws"]["CloudWatchMetrics"][0]
    assert (directive["Namespace"], sorted(directive["Dimensions"][0])) == ("Nitrokit", ["Enclave", "InstanceId", "service"])


def test_the_handler_imports_nothing_that_the_asset_does_not_ship():
    from nitrokit.cdk.bundling import CLOSURE

    code = "import sys, nitrokit.handlers.check_enclave; print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'nitrokit'], sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    package = ROOT / "constructs" / "nitrokit"
    assert {str(Path(path).relative_to(package)) for path in loaded} == set(CLOSURE)
