"""Ask the enclave of a host for a fresh attestation document, verify and appraise it, report.

Environment: INSTANCE_ID, ENCLAVE, DOCUMENT_NAME (the SSM document), MEASUREMENTS (JSON list of locked sets), HOST_ROLE_ARN; TRUST_ANCHOR (base64 of a DER root) only where it is not AWS's.
Answer: {"verdict": "PASS" | "FAIL" | "UNREACHABLE", "reason", "checks": [{"number", "name"}], "differences": [{"pcr", "expected", "got"}], "module_id", "timestamp"}.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.exceptions import BotoCoreError, ClientError

from nitrokit.core.attestation import (
    AWS_NITRO_ROOT_G1,
    AppraisalError,
    AppraisalPolicy,
    DocumentError,
    TrustAnchor,
    VerificationError,
    VerifiedDocument,
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
    metrics.add_dimension(name="InstanceId", value=os.environ["INSTANCE_ID"])
    metrics.add_metric(name="AttestationPassed", unit=MetricUnit.Count, value=int(result["verdict"] == "PASS"))
    logger.info("attestation checked", verdict=result["verdict"], reason=result["reason"], module_id=result["module_id"])
    return result


def check(ssm: Any, environment: Mapping[str, str], clock: Callable[[tzinfo], datetime]) -> dict[str, Any]:
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
        return _report("UNREACHABLE", str(error))
    return judge(document, policy, _trust_anchor(environment), clock(UTC))


def judge(document: bytes, policy: AppraisalPolicy, trust_anchor: TrustAnchor, time_now: datetime) -> dict[str, Any]:
    """Verify and appraise a document."""
    try:
        verified = verify_document(document, trust_anchor=trust_anchor, time=time_now)
    except (DocumentError, VerificationError) as error:
        return _report("FAIL", str(error))
    try:
        appraisal = appraise(verified, policy, time=time_now)
    except AppraisalError as error:
        differences = [
            {"pcr": one.index, "expected": one.expected.hex(), "got": one.got.hex() if one.got else None} for one in error.differences
        ]
        return _report("FAIL", str(error), verified, differences=differences)
    return _report("PASS", None, verified, checks=[{"number": one.number, "name": one.name} for one in appraisal.checks])


def _report(
    verdict: str,
    reason: str | None,
    document: VerifiedDocument | None = None,
    *,
    checks: list[dict[str, Any]] | None = None,
    differences: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "reason": reason,
        "checks": checks or [],
        "differences": differences or [],
        "module_id": document.module_id if document else None,
        "timestamp": document.timestamp.isoformat() if document else None,
    }


def fetch_document(ssm: Any, instance_id: str, document_name: str, nonce: bytes) -> bytes:
    """Have the host's agent ask the enclave, through Systems Manager. Raises UnreachableError."""
    parameters = {"Nonce": [base64.b64encode(nonce).decode()]}
    deadline = time.monotonic() + _ANSWER_WITHIN
    try:
        sent = ssm.send_command(InstanceIds=[instance_id], DocumentName=document_name, Parameters=parameters, TimeoutSeconds=60)
        while time.monotonic() < deadline:
            time.sleep(_POLL)
            try:
                answer = ssm.get_command_invocation(CommandId=sent["Command"]["CommandId"], InstanceId=instance_id)
            except ssm.exceptions.InvocationDoesNotExist:
                continue  # not yet delivered
            if answer["Status"] == "Success":
                return _document(answer["StandardOutputContent"])
            if answer["Status"] not in ("Pending", "InProgress", "Delayed"):
                raise UnreachableError(f"{answer['Status']}: {answer['StandardErrorContent'][-500:]}")
    except (ClientError, BotoCoreError) as error:
        # E.g. InvalidInstanceId: the instance is stopped, or its SSM Agent is not connected.
        raise UnreachableError(str(error)) from error
    raise UnreachableError(f"no answer in {_ANSWER_WITHIN:.0f} s")


def _document(output: str) -> bytes:
    """The document in what the host printed; the host may print anything."""
    try:
        return base64.b64decode(json.loads(output)["document"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise UnreachableError(f"the host's answer holds no document: {output[:300]}") from error


def _trust_anchor(environment: Mapping[str, str]) -> TrustAnchor:
    encoded = environment.get("TRUST_ANCHOR")
    return TrustAnchor("configured root", base64.b64decode(encoded)) if encoded else AWS_NITRO_ROOT_G1
