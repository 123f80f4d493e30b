"""The Lambda that compares each EnclaveKey's deployed policy and grants with the synthesised ones, on a schedule and when CloudTrail tells of a change; and restores them where it shall.

Environment: SETTINGS_PATH (below it, the keys), STATE_TABLE; RESTORE ("true") and RESTORE_ROLE_ARN (who may change the policies) where wanted; SECURITY_HUB ("true").
Answer: {"verdict": "PASS" | "FAIL", "keys": [{"key", "intact", "problems", "restored"}]}. A key that was restored is still a FAIL: somebody changed it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from nitrokit.handlers import settings
from nitrokit.handlers.clients import RETRIES
from nitrokit.handlers.findings import Account, Publisher
from nitrokit.handlers.key_guard import KeyState, examine, restore
from nitrokit.handlers.run_store import Remembered, RunStore

SERVICE = "guard-key-policy"
logger = Logger(service=SERVICE)
tracer = Tracer(service=SERVICE)


@tracer.capture_lambda_handler(capture_response=False)
def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler."""
    del event
    environment, account = os.environ, Account.of(context.invoked_function_arn)
    hub = boto3.client("securityhub") if environment.get("SECURITY_HUB") == "true" else None
    store = RunStore(boto3.client("dynamodb"), environment["STATE_TABLE"])
    publisher = Publisher(account, boto3.client("events"), hub)
    kms = boto3.client("kms", config=RETRIES)
    told = []
    for key in settings.keys(boto3.client("ssm"), environment):
        state = examine(kms, key, account.account, account.partition)
        restored = (state.edited or bool(state.grants)) and environment.get("RESTORE") == "true" and _restored(state, environment)
        _report(state, restored, store, publisher, context.aws_request_id)
        told.append({"key": key.arn, "intact": not state.problems, "problems": list(state.problems), "restored": restored})
    verdict = "PASS" if told and all(one["intact"] for one in told) else "FAIL"
    logger.info("keys examined", verdict=verdict, keys=told)
    return {"verdict": verdict, "keys": told}


def _restored(state: KeyState, environment: Mapping[str, str]) -> bool:
    """Whether nothing is left to mend; where something is, the finding says so and the log why."""
    try:
        restore(_restorer(environment), state)
    except Exception:  # whatever is in the way must not keep the finding from being reported
        logger.exception("not restored", key=state.key.arn)
        return False
    return not state.lasting


def _restorer(environment: Mapping[str, str]) -> Any:
    role = environment.get("RESTORE_ROLE_ARN")
    if not role:
        return boto3.client("kms", config=RETRIES)
    given = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="nitrokit-guard")["Credentials"]
    names = {"aws_access_key_id": "AccessKeyId", "aws_secret_access_key": "SecretAccessKey", "aws_session_token": "SessionToken"}
    return boto3.client("kms", config=RETRIES, **{name: given[field] for name, field in names.items()})


def _report(state: KeyState, restored: bool, store: RunStore, publisher: Publisher, run: str) -> None:
    """The metric at every time; a finding when what was found is not what it was."""
    with single_metric(name="KeyPolicyIntact", unit=MetricUnit.Count, value=int(not state.problems), namespace="Nitrokit") as metric:
        metric.add_dimension(name="service", value=SERVICE)
        metric.add_dimension(name="Key", value=state.key.name)
    last = store.remembered(SERVICE, [state.key.name]).get(state.key.name)
    was = last.before_run(run) if last else None
    if state.outcome != was:
        if was or state.problems:
            publisher.publish([state.as_finding(restored)], datetime.now(UTC))
        store.remember(SERVICE, [(state.key.name, Remembered(state.outcome, run, was))])
