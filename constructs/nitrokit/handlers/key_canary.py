"""The Lambda that tries, every minute, to decrypt without attestation. It is allowed to by IAM, so that the key alone stands in its way.

Proof is a denial, AccessDeniedException, of the real Decrypt of a real ciphertext. Any other error proves nothing; an answer is an alarm.

Environment: SETTINGS_PATH (below it, the keys); SECURITY_HUB ("true") where wanted.
Answer: {"verdict": "DENIED" | "OPENED" | "NOT PROVEN", "keys": [{"key", "outcome", "detail", "explicit_deny"}]}.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, single_metric
from aws_lambda_powertools.metrics import MetricUnit
from botocore.exceptions import BotoCoreError, ClientError

from nitrokit.handlers import settings
from nitrokit.handlers.findings import Account, Finding, Publisher
from nitrokit.handlers.settings import GuardedKey
from nitrokit.handlers.tracing import fast_tracer

SERVICE = "key-canary"
DENIED, OPENED, NOT_PROVEN = "DENIED", "OPENED", "NOT PROVEN"
_CONTEXT = {"nitrokit": "canary"}
_EXPLICIT = "explicit deny in a resource-based policy"

logger = Logger(service=SERVICE)
tracer = fast_tracer(SERVICE)
_ciphertexts: dict[str, bytes] = {}


@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler."""
    del event
    kms = boto3.client("kms")
    tried = [(key, *attempt(kms, key)) for key in settings.keys(boto3.client("ssm"), os.environ)]
    told = [{"key": key.arn, "outcome": outcome, "detail": detail, "explicit_deny": _EXPLICIT in detail} for key, outcome, detail in tried]
    outcomes = {one["outcome"] for one in told}
    verdict = OPENED if OPENED in outcomes else DENIED if outcomes == {DENIED} else NOT_PROVEN
    for key, outcome, _ in tried:
        _emit(key, outcome)
    if findings := [opened(key) for key, outcome, _ in tried if outcome == OPENED]:
        hub = boto3.client("securityhub") if os.environ.get("SECURITY_HUB") == "true" else None
        Publisher(Account.of(context.invoked_function_arn), boto3.client("events"), hub).publish(findings, datetime.now(UTC))
    logger.info("canary", verdict=verdict, keys=told)
    return {"verdict": verdict, "keys": told}


def attempt(kms: Any, key: GuardedKey) -> tuple[str, str]:
    """(outcome, what KMS said) of one try. The plaintext is random and forgotten."""
    try:
        ciphertext = _ciphertext(kms, key.arn)
    except (ClientError, BotoCoreError) as error:
        return NOT_PROVEN, f"no ciphertext: {error}"[:500]
    try:
        kms.decrypt(KeyId=key.arn, CiphertextBlob=ciphertext, EncryptionContext=_CONTEXT)
    except ClientError as error:
        denied = error.response["Error"]["Code"] == "AccessDeniedException"
        return (DENIED if denied else NOT_PROVEN), str(error)[:500]
    except BotoCoreError as error:
        return NOT_PROVEN, str(error)[:500]
    return OPENED, "Decrypt answered without an attestation document"


def _ciphertext(kms: Any, arn: str) -> bytes:
    """One for as long as this process lives."""
    if arn not in _ciphertexts:
        _ciphertexts[arn] = kms.encrypt(KeyId=arn, Plaintext=secrets.token_bytes(32), EncryptionContext=_CONTEXT)["CiphertextBlob"]
    return _ciphertexts[arn]


def _emit(key: GuardedKey, outcome: str) -> None:
    for name, value in (("CanaryDenied", outcome == DENIED), ("CanaryOpened", outcome == OPENED)):
        with single_metric(name=name, unit=MetricUnit.Count, value=int(value), namespace="Nitrokit") as metric:
            metric.add_dimension(name="service", value=SERVICE)
            metric.add_dimension(name="Key", value=key.name)


def opened(key: GuardedKey) -> Finding:
    """What there is to tell of a key that the canary opened."""
    return Finding(
        kind="canary",
        subject=key.name,
        title=f"Key {key.name} opens without attestation",
        description="The canary decrypted its ciphertext by IAM permission alone, without an attestation document.",
        severity="CRITICAL",
        resource=(key.arn, "AwsKmsKey"),
        remedy="Invoke guard_key_policy and read what changed; treat what the key protects as disclosed.",
        details={"key": key.arn},
    )
