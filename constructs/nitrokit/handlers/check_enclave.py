"""Ask the enclave of a host for a fresh attestation document, verify and appraise it, report.

Environment: INSTANCE_ID, ENCLAVE, DOCUMENT_NAME (the SSM document), MEASUREMENTS (JSON list of locked sets), HOST_ROLE_ARN; TRUST_ANCHOR (base64 of a DER root) only where it is not AWS's.
Answer: {"verdict": "PASS" | "FAIL" | "UNREACHABLE", "reason", "checks", "differences": [{"pcr", "expected", "got"}], "module_id"}.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from nitrokit.core.attestation import (
    AWS_NITRO_ROOT_G1,
    AppraisalError,
    AppraisalPolicy,
    DocumentError,
    TrustAnchor,
    VerificationError,
    appraise,
    verify_document,
)
from nitrokit.core.measurements import Measurements

logger = Logger(service="check-enclave")
metrics = Metrics(namespace="Nitrokit", service="check-enclave")

_NONCE_BYTES = 32
_MAX_AGE = timedelta(minutes=5)
_ANSWER_WITHIN = 50.0
_POLL = 0.3


class UnreachableError(Exception):
    """The host or its enclave gave no document: that is not a pass."""


@metrics.log_metrics
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """The Lambda's handler."""
    del event, context
    result = check(boto3.client("ssm"), os.environ, datetime.now)
    metrics.add_dimension(name="Enclave", value=os.environ["ENCLAVE"])
    metrics.add_metric(name="AttestationPassed", unit=MetricUnit.Count, value=int(result["verdict"] == "PASS"))
    logger.info("attestation checked", verdict=result["verdict"], reason=result.get("reason"), module_id=result.get("module_id"))
    return result


def check(ssm: Any, environment: Any, clock: Any) -> dict[str, Any]:
    """One check. Whatever cannot be proven is reported, never passed over."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    policy = AppraisalPolicy(
        measurements=[Measurements.parse(json.dumps(one)) for one in json.loads(environment["MEASUREMENTS"])],
        nonce=nonce,
        max_age=_MAX_AGE,
        host_role_arn=environment["HOST_ROLE_ARN"],
        instance_id=environment["INSTANCE_ID"],
    )
    try:
        document = fetch_document(ssm, environment["INSTANCE_ID"], environment["DOCUMENT_NAME"], nonce)
    except UnreachableError as error:
        return {"verdict": "UNREACHABLE", "reason": str(error), "checks": [], "differences": []}
    return judge(document, policy, _trust_anchor(environment), clock(UTC))


def judge(document: bytes, policy: AppraisalPolicy, trust_anchor: TrustAnchor, time_now: datetime) -> dict[str, Any]:
    """Verify and appraise a document."""
    try:
        verified = verify_document(document, trust_anchor=trust_anchor, time=time_now)
    except (DocumentError, VerificationError) as error:
        return {"verdict": "FAIL", "reason": str(error), "checks": [], "differences": []}
    try:
        appraisal = appraise(verified, policy, time=time_now)
    except AppraisalError as error:
        differences = [
            {"pcr": one.index, "expected": one.expected.hex(), "got": one.got.hex() if one.got else None} for one in error.differences
        ]
        return {"verdict": "FAIL", "reason": str(error), "checks": [], "differences": differences, "module_id": verified.module_id}
    checks = [{"number": one.number, "name": one.name} for one in appraisal.checks]
    return {
        "verdict": "PASS",
        "reason": None,
        "checks": checks,
        "differences": [],
        "module_id": verified.module_id,
        "timestamp": verified.timestamp.isoformat(),
    }


def fetch_document(ssm: Any, instance_id: str, document_name: str, nonce: bytes) -> bytes:
    """Have the host's agent ask the enclave, through Systems Manager. Raises UnreachableError."""
    parameters = {"Nonce": [base64.b64encode(nonce).decode()]}
    command = ssm.send_command(InstanceIds=[instance_id], DocumentName=document_name, Parameters=parameters, TimeoutSeconds=60)["Command"][
        "CommandId"
    ]
    deadline = time.monotonic() + _ANSWER_WITHIN
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        try:
            answer = ssm.get_command_invocation(CommandId=command, InstanceId=instance_id)
        except ssm.exceptions.InvocationDoesNotExist:
            continue  # not yet delivered
        if answer["Status"] == "Success":
            return _document(answer["StandardOutputContent"])
        if answer["Status"] not in ("Pending", "InProgress", "Delayed"):
            raise UnreachableError(f"{answer['Status']}: {answer['StandardErrorContent'][-500:]}")
    raise UnreachableError(f"no answer in {_ANSWER_WITHIN:.0f} s")


def _document(output: str) -> bytes:
    try:
        return base64.b64decode(json.loads(output)["document"], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise UnreachableError(f"the host's answer holds no document: {output[:300]}") from error


def _trust_anchor(environment: Any) -> TrustAnchor:
    encoded = environment.get("TRUST_ANCHOR")
    return TrustAnchor("configured root", base64.b64decode(encoded)) if encoded else AWS_NITRO_ROOT_G1
