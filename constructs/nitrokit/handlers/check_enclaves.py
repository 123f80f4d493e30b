"""The Lambda that checks every enclave of its fleets: on a schedule, on events, or by hand. What it does: nitrokit.handlers.checker.

Environment: SETTINGS_PATH (below it, the fleets), STATE_TABLE, LEASE_SECONDS; LEDGER_TABLE, TOPIC_ARN, SECURITY_HUB ("true") where wanted; TRUST_ANCHOR only where it is not AWS's root.
Event: what a rule sends, or ``{}`` or ``{"instances": [ids]}`` by hand.
Answer: {"status": "complete" | "continues" | "busy" | "idle", "run_id", "waiting", "verdict": "PASS" | "FAIL" | "UNREACHABLE", "totals": {enclave: {verdict: count}}, "failures":
[{"enclave", "instance_id", "verdict", "code", "reason", "differences"}]}; at most 50 failures are told. ``run_id``: between runs the last one's; ``waiting``: something was asked for after
this run began, and waits for the next.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer, single_metric
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError

from nitrokit.core.attestation import ChainCache
from nitrokit.handlers import settings
from nitrokit.handlers.checker import Checker, Reporting
from nitrokit.handlers.clients import RETRIES
from nitrokit.handlers.ended import forget_ended
from nitrokit.handlers.findings import Account, Publisher
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.run_state import EVERYTHING, RunState
from nitrokit.handlers.run_store import RunStore
from nitrokit.handlers.settings import Fleet
from nitrokit.handlers.triggers import CONTINUE, trigger_of
from nitrokit.handlers.trust import trust_anchor
from nitrokit.handlers.verdict import FAIL, PASS, UNREACHABLE

NAMESPACE, SERVICE = "Nitrokit", "check-enclaves"

logger = Logger(service=SERVICE)
tracer = Tracer(service=SERVICE)
_chains = ChainCache()


@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler."""
    checker = _checker(os.environ, context.invoked_function_arn)
    trigger = trigger_of(event, context.aws_request_id)
    status, state = checker.handle(
        trigger, context.aws_request_id, lambda: timedelta(milliseconds=context.get_remaining_time_in_millis()), uuid.uuid4().hex
    )
    if status == "complete" and EVERYTHING in state.scope:
        _forget_ended(checker.fleets, checker.store)
    if status == "continues" or (status == "complete" and checker.store.update(lambda now: now).pending):
        boto3.client("lambda").invoke(
            FunctionName=context.function_name, InvocationType="Event", Payload=json.dumps({CONTINUE: True}).encode()
        )
    answer = summary(status, state)
    logger.info("checked", **{name: answer[name] for name in ("status", "run_id", "verdict", "totals", "failures")})
    return answer


def _forget_ended(fleets: Sequence[Fleet], store: RunStore) -> None:
    """Tidying up: what fails is said, and the next run tries again."""
    try:
        names = forget_ended(boto3.client("ssm"), boto3.client("ec2"), fleets, datetime.now(UTC), store.forget)
    except (BotoCoreError, ClientError) as error:
        logger.warning("what is kept of ended instances stays", reason=str(error))
    else:
        if names:
            logger.info("ended instances", forgotten=names)


def summary(status: str, state: RunState) -> dict[str, Any]:
    """The function's answer. Nothing checked is no pass."""
    counted = Counter[str]()
    for totals in state.totals.values():
        counted.update(totals)
    worst = FAIL if counted[FAIL] else UNREACHABLE if counted[UNREACHABLE] or not counted[PASS] else PASS
    return {
        "status": status, "run_id": state.run_id or state.ended, "waiting": bool(state.pending), "verdict": worst,
        "totals": {name: dict(counts) for name, counts in state.totals.items()}, "failures": [dict(one) for one in state.failures],
    }  # fmt: skip


def _checker(environment: Mapping[str, str], function_arn: str) -> Checker:
    account = Account.of(function_arn)
    fleets = settings.fleets(boto3.client("ssm"), environment)
    store = RunStore(boto3.client("dynamodb"), environment["STATE_TABLE"])
    hub = boto3.client("securityhub") if environment.get("SECURITY_HUB") == "true" else None
    publisher = Publisher(account, boto3.client("events"), hub)
    prefix = f"arn:{account.partition}:ec2:{account.region}:{account.account}:instance/"
    names = [fleet.enclave for fleet in fleets]
    table = environment.get("LEDGER_TABLE")
    reporting = Reporting(
        publish=publisher.publish,
        finish=lambda state: _finish(state, names, environment),
        resource=prefix.__add__,
        ledger=Ledger(table) if table else None,
    )
    hosts = Hosts(boto3.client("ssm", config=RETRIES), boto3.client("ec2", config=RETRIES))
    lease = timedelta(seconds=int(environment["LEASE_SECONDS"]))
    return Checker(fleets, hosts, store, reporting, trust_anchor(environment), datetime.now, lease, _chains)


def _finish(state: RunState, enclaves: list[str], environment: Mapping[str, str]) -> None:
    monitor = settings.name_of(environment)
    for enclave in enclaves:
        values = _values(state.totals.get(enclave, {}))
        if EVERYTHING in state.scope:
            _emit(monitor, enclave, values)
        elif values["EnclavesPassed"] < values["EnclavesChecked"]:  # some hosts alone: they are no run, whose absence they must not hide
            _emit(monitor, enclave, {"AttestationPassed": 0})
    if environment.get("TOPIC_ARN") and state.changed:
        _notify(environment, state)


def _values(counts: Mapping[str, int]) -> dict[str, int]:
    """Told again, they are the same. A fleet without hosts has proven nothing."""
    total, passed = sum(counts.values()), counts.get(PASS, 0)
    return {
        "AttestationPassed": int(passed == total > 0), "EnclavesChecked": total, "EnclavesPassed": passed, "EnclavesFailed": counts.get(FAIL, 0),
        "EnclavesUnreachable": counts.get(UNREACHABLE, 0),
    }  # fmt: skip


def _emit(monitor: str, enclave: str, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        with single_metric(name=name, unit=MetricUnit.Count, value=value, namespace=NAMESPACE) as metric:
            metric.add_dimension(name="service", value=SERVICE)
            metric.add_dimension(name="Enclave", value=enclave)
            # Another monitor of the account may watch an enclave of this name: its verdicts must not stand for what this one does not say.
            metric.add_dimension(name="Monitor", value=monitor)


class _NoTimeLeft(LambdaContext):
    """For Powertools: what is in progress is over at once."""

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 0


def _notify(environment: Mapping[str, str], state: RunState) -> None:
    """One message for a run whose verdicts changed; a run that ends twice sends it once. Only one that died between sending and writing that down is told of again, with the same run_id."""

    def send(*, run: str) -> str:
        told = summary("complete", state)
        subject = f"nitrokit: {told['verdict']}: the verdicts of {state.changed} enclaves changed"[:100]
        sent = boto3.client("sns").publish(TopicArn=environment["TOPIC_ARN"], Subject=subject, Message=json.dumps(told, indent=2))
        return str(sent["MessageId"])

    config = IdempotencyConfig(expires_after_seconds=86_400)
    # The run's lease keeps all others out: a message that somebody began to send and did not finish is of an invocation that died, and must keep nobody from sending it.
    config.register_lambda_context(_NoTimeLeft())
    once = idempotent_function(
        send,
        data_keyword_argument="run",
        persistence_store=DynamoDBPersistenceLayer(environment["STATE_TABLE"]),
        config=config,
        key_prefix="notify",
    )
    once(run=state.run_id)
