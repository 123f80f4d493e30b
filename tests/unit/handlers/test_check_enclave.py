"""The attestation check's verdicts, on documents of the emulated PKI and on real ones."""

import json
import secrets
from datetime import UTC, datetime, timedelta

import pytest

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, AppraisalPolicy, parse_document
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.nsm import NsmClient
from nitrokit.handlers import check_enclave

NONCE = secrets.token_bytes(32)


@pytest.fixture
def document(make_nsm):
    return lambda **changes: NsmClient(make_nsm(**changes).answer).attestation(nonce=NONCE)


def test_pass_lists_every_check(document, measurements, pki):
    verdict = check_enclave.judge(
        document(), AppraisalPolicy(measurements=[measurements], nonce=NONCE), pki.trust_anchor, datetime.now(UTC)
    )
    assert (verdict["verdict"], len(verdict["checks"])) == ("PASS", 14)
    json.dumps(verdict)


def test_fail_names_the_pcrs(document, measurements, pki):
    other = Measurements(digest([b"x"]), measurements.pcr1, measurements.pcr2)
    verdict = check_enclave.judge(document(), AppraisalPolicy(measurements=[other], nonce=NONCE), pki.trust_anchor, datetime.now(UTC))
    assert (verdict["verdict"], [one["pcr"] for one in verdict["differences"]]) == ("FAIL", [0])
    assert (
        check_enclave.judge(document(debug=True), AppraisalPolicy(measurements=[measurements]), pki.trust_anchor, datetime.now(UTC))[
            "verdict"
        ]
        == "FAIL"
    )


def test_production_does_not_trust_the_emulation_and_the_other_way_round(document, measurements, pki, vectors):
    policy = AppraisalPolicy(measurements=[measurements])
    verdict = check_enclave.judge(document(), policy, AWS_NITRO_ROOT_G1, datetime.now(UTC))
    assert (verdict["verdict"], "verification/root" in verdict["reason"]) == ("FAIL", True)
    real = next((vectors / "attestation").glob("*.bin")).read_bytes()
    assert "verification/root" in check_enclave.judge(real, policy, pki.trust_anchor, parse_document(real).timestamp)["reason"]


@pytest.mark.parametrize("garbage", [b"", b"\x84", b"{}", bytes(40_000)])
def test_garbage_is_a_fail_with_a_reason(garbage, measurements):
    verdict = check_enclave.judge(garbage, AppraisalPolicy(measurements=[measurements]), AWS_NITRO_ROOT_G1, datetime.now(UTC))
    assert (verdict["verdict"], verdict["reason"].startswith("")) == ("FAIL", True)


class _Ssm:
    """Systems Manager's two calls, answering what it is told; their shapes are botocore's."""

    class exceptions:
        class InvocationDoesNotExist(Exception):
            pass

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []

    def send_command(self, **request):
        self.sent.append(request)
        return {"Command": {"CommandId": "c"}}

    def get_command_invocation(self, **_):
        answer = self.answers.pop(0)
        if isinstance(answer, type):
            raise answer
        return {"StandardOutputContent": "", "StandardErrorContent": "", **answer}


@pytest.mark.parametrize(
    "answer",
    [
        {"Status": "Failed", "StandardErrorContent": "no enclave"},
        {"Status": "Success", "StandardOutputContent": "{}"},
        {"Status": "Success", "StandardOutputContent": "x"},
    ],
)
def test_a_host_that_gives_no_document_is_unreachable_never_a_pass(answer, measurements):
    ssm = _Ssm(_Ssm.exceptions.InvocationDoesNotExist, {"Status": "InProgress"}, answer)
    environment = {
        "MEASUREMENTS": json.dumps([json.loads(measurements.to_json())]),
        "HOST_ROLE_ARN": "arn:aws:iam::123456789012:role/host",
        "INSTANCE_ID": "i-0123456789abcdef0",
        "DOCUMENT_NAME": "d",
        "ENCLAVE": "e",
    }
    verdict = check_enclave.check(ssm, environment, datetime.now)
    assert verdict["verdict"] == "UNREACHABLE"
    assert len(ssm.sent[0]["Parameters"]["Nonce"][0]) >= 44


def test_each_check_has_its_own_nonce(measurements):
    environment = {
        "MEASUREMENTS": json.dumps([json.loads(measurements.to_json())]),
        "HOST_ROLE_ARN": "arn:aws:iam::123456789012:role/host",
        "INSTANCE_ID": "i-0123456789abcdef0",
        "DOCUMENT_NAME": "d",
        "ENCLAVE": "e",
    }
    nonces = set()
    for _ in range(3):
        ssm = _Ssm({"Status": "Failed"})
        check_enclave.check(ssm, environment, datetime.now)
        nonces.add(ssm.sent[0]["Parameters"]["Nonce"][0])
    assert len(nonces) == 3


def test_an_old_document_is_refused(document, measurements, pki):
    policy = AppraisalPolicy(measurements=[measurements], max_age=timedelta(minutes=5))
    verdict = check_enclave.judge(document(), policy, pki.trust_anchor, datetime.now(UTC) + timedelta(minutes=6))
    assert "appraisal/stale" in verdict["reason"]
