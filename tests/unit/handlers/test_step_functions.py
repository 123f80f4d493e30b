"""verify_attestation in a state machine: the documented definition, run by moto's interpreter of the Amazon States Language; the function runs under AWS's own awslambdaric."""

import base64
import io
import json
import os
import secrets
import time
import zipfile
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.nsm import NsmClient

ROOT = Path(__file__).parents[3]
DEFINITION = ROOT / "docs/workflows/verify_attestation.asl.json"
ROLE = "arn:aws:iam::123456789012:role/states"


@pytest.fixture(scope="module")
def function(tmp_path_factory, pki):
    """The shim of lambda/ in a process of its own, with this environment's packages."""
    from nitrokit.emulation.cloud.lambdas import FunctionProcess

    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.write(ROOT / "lambda/verify_attestation/index.py", "index.py")
    environment = {
        "PATH": os.environ["PATH"],
        "TRUST_ANCHOR": base64.b64encode(pki.trust_anchor.der).decode(),
        "POWERTOOLS_METRICS_NAMESPACE": "Nitrokit",
    }
    arn = "arn:aws:lambda:us-east-1:123456789012:function:verify"
    process = FunctionProcess(arn, code.getvalue(), "index.handler", 60, tmp_path_factory.mktemp("fn"), environment)
    yield process
    process.close()


@pytest.fixture
def execute(function, monkeypatch):
    """Run the state machine with an input; returns the execution as Step Functions describes it."""
    from moto.awslambda.models import LambdaFunction

    def invoke(_, event=None):
        failed, payload = function.invoke(event.encode() if isinstance(event, str) else json.dumps(event).encode())
        return payload.decode(), failed, ""

    monkeypatch.setattr(LambdaFunction, "_invoke_lambda", invoke)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        role = boto3.client("iam").create_role(RoleName="f", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        empty = io.BytesIO()
        with zipfile.ZipFile(empty, "w") as archive:
            archive.writestr("index.py", "")
        code = {"ZipFile": empty.getvalue()}
        made = boto3.client("lambda").create_function(
            FunctionName="verify", Runtime="python3.13", Role=role, Handler="index.handler", Code=code
        )
        states = boto3.client("stepfunctions")
        definition = DEFINITION.read_text().replace("${VerifierFunctionArn}", made["FunctionArn"])
        machine = states.create_state_machine(name="m", definition=definition, roleArn=ROLE)["stateMachineArn"]

        def run(request):
            execution = states.start_execution(stateMachineArn=machine, input=json.dumps(request))["executionArn"]
            deadline = time.monotonic() + 60
            while (found := states.describe_execution(executionArn=execution))["status"] == "RUNNING" and time.monotonic() < deadline:
                time.sleep(0.05)
            return found

        yield run


@pytest.fixture
def request_for(make_nsm, measurements):
    def make(reference=measurements, **changes):
        nonce = secrets.token_bytes(32)
        document = NsmClient(make_nsm(**changes).answer).attestation(nonce=nonce)
        return {
            "document": base64.b64encode(document).decode(),
            "nonce": base64.b64encode(nonce).decode(),
            "reference": reference.as_object(),
        }

    return make


def test_a_pass_goes_on_with_the_verdict(execute, request_for):
    found = execute(request_for())
    assert found["status"] == "SUCCEEDED", found
    output = json.loads(found["output"])
    assert (output["verdict"], output["document"]["module_id"]) == ("PASS", "i-0123456789abcdef0-enc0123456789abcde")


@pytest.mark.parametrize("changes", [{"debug": True}, {"reference": Measurements(digest([b"a"]), digest([b"b"]), digest([b"c"]))}])
def test_a_fail_fails_the_execution(execute, request_for, changes):
    found = execute(request_for(**changes))
    assert (found["status"], found["error"]) == ("FAILED", "NotAttested")
    assert "appraisal/" in found["cause"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unknown": 1}, "request/schema"),
        ({"reference": "hello"}, "request/unknown-reference"),
        ({"reference": {"Measurements": {"PCR0": "00"}}}, "measurements/bad-pcr"),
        ({"reference": {"Measurements": {f"PCR{index}": "00" * 48 for index in (0, 1, 2)}}}, "appraisal/zero-pcr"),
    ],
)
def test_what_cannot_be_answered_is_caught_by_name(execute, request_for, change, told):
    found = execute({**request_for(), **change})
    assert (found["status"], found["error"]) == ("FAILED", "BadRequest")
    assert told in found["cause"]
