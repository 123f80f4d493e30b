"""Verify and appraise somebody's attestation document: invoked directly, by Step Functions, or by an IAM-authorised Function URL.

Request and response: ``handlers/schemas/verify_attestation.json``, which a GET of the URL returns too. A FAIL is an answer (200). A request that is none is an error of ours: raised, so that
Step Functions can catch it by its class, or status 400 with ``{"error": {"code", "what", …}}`` by the URL.

Environment: SETTINGS_PATH (the parameters below it name the deployed locks; read when a request names one), TRUST_ANCHOR only where it is not AWS's root.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from nitrokit.core.attestation import AppraisalPolicy, ChainCache
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import NitrokitError, UsageError
from nitrokit.handlers import settings
from nitrokit.handlers.tracing import fast_tracer
from nitrokit.handlers.trust import trust_anchor
from nitrokit.handlers.verdict import judge

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "verify_attestation.json").read_bytes())
DEFAULT_MAX_AGE = 300

logger = Logger(service="verify-attestation")
metrics = Metrics(namespace="Nitrokit", service="verify-attestation")
tracer = fast_tracer("verify-attestation")
_chains = ChainCache()


class RequestError(UsageError):
    """A request that cannot be answered."""

    area = "request"


@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
def handler(event: Any, context: object) -> dict[str, Any]:
    """The Lambda's handler. Raises RequestError, or what making the policy raises, when invoked directly."""
    if isinstance(event, dict) and "http" in (event.get("requestContext") or {}):
        return _by_url(event)
    return answer(event, os.environ, datetime.now)


def answer(request: Any, environment: Mapping[str, str], clock: Callable[[tzinfo], datetime]) -> dict[str, Any]:
    """The response to a request. Raises RequestError, AppraisalError or MeasurementsError for one that cannot be answered."""
    _validate(request)
    time = None if request.get("archived") else clock(UTC)
    reference = _reference(request["reference"], environment)
    verdict = judge(
        _bytes(request, "document"),
        _policy(request, reference),
        reference,
        trust_anchor=trust_anchor(environment),
        time=time,
        cache=_chains,
    )
    metrics.add_metric(name="DocumentsVerified", unit=MetricUnit.Count, value=1)
    metrics.add_metric(name="DocumentsRefused", unit=MetricUnit.Count, value=int(verdict.error is not None))
    logger.info("document verified", verdict=verdict.verdict, code=verdict.error.code if verdict.error else None)
    return verdict.as_dict()


@cache
def _validator() -> Callable[[Any], Any]:
    schema = {"$schema": SCHEMA["$schema"], "definitions": SCHEMA["definitions"], **SCHEMA["definitions"]["request"]}
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema)
    return compiled


def _validate(request: Any) -> None:
    try:
        _validator()(request)
    except fastjsonschema.JsonSchemaValueException as error:
        raise RequestError(
            "schema",
            "the request is not what the schema says",
            got=str(error)[:300],
            expected="definitions/request of verify_attestation.json",
        ) from error
    if request.get("archived") and "max_age_seconds" in request:
        raise RequestError(
            "archived-age", "archived evidence has no age", got="max_age_seconds beside archived", do="leave one of them out"
        )


def _bytes(request: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(request[name], validate=True)
    except ValueError as error:
        raise RequestError("base64", f"{name} is not base64", got=request[name][:40], expected="base64 with its padding") from error


def _reference(value: str | Mapping[str, Any], environment: Mapping[str, str]) -> ReferenceValues:
    if not isinstance(value, str):
        return ReferenceValues.parse(json.dumps(value))
    known = _deployed(environment.get(settings.PATH, ""))
    if value not in known:
        raise RequestError(
            "unknown-reference", "no lock of this name was deployed with the function", got=value, expected=", ".join(sorted(known)) or "none",
            do="name another, or send the content of a measurements.json",
        )  # fmt: skip
    return known[value]


@cache
def _deployed(path: str) -> dict[str, ReferenceValues]:
    """Locks change by deployment only, and a deployment starts the function anew."""
    if not path:
        return {}
    import boto3  # a request that brings its reference pays for no client

    return {one.enclave: one.reference for one in settings.fleets(boto3.client("ssm"), {settings.PATH: path})}


def _policy(request: Mapping[str, Any], reference: ReferenceValues) -> AppraisalPolicy:
    age = None if request.get("archived") else timedelta(seconds=request.get("max_age_seconds", DEFAULT_MAX_AGE))
    binary: dict[str, Any] = {
        name: _bytes(request, name) for name in ("nonce", "user_data", "public_key", "signing_certificate") if name in request
    }
    named = {name: request[name] for name in ("host_role_arn", "instance_id", "module_id", "region") if name in request}
    pcrs = {int(index): bytes.fromhex(value) for index, value in request.get("pcrs", {}).items()}
    return AppraisalPolicy(
        measurements=reference.sets(), max_age=age, pcrs=pcrs, allow_debug=request.get("allow_debug", False), **binary, **named
    )


def _by_url(event: Mapping[str, Any]) -> dict[str, Any]:
    method = event["requestContext"]["http"].get("method")
    if method == "GET":
        return _response(200, SCHEMA)
    if method != "POST":
        return _response(
            405, {"error": RequestError("method", "no such method", got=method, expected="POST, or GET for the schema").as_dict()}
        )
    try:
        return _response(200, answer(body_of(event), os.environ, datetime.now))
    except NitrokitError as error:
        return _response(400, {"error": error.as_dict()})


def body_of(event: Mapping[str, Any]) -> Any:
    body = event.get("body") or ""
    try:
        return json.loads(base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body)
    except (ValueError, RecursionError) as error:
        raise RequestError("json", "the body is not JSON", got=str(error)[:200], expected="one JSON object") from error


def _response(status: int, value: Any) -> dict[str, Any]:
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(value)}
