"""The Lambda that tells who decrypted what with which image: CloudTrail's attested KMS events, joined with the locks and the ledger.

Environment: SETTINGS_PATH (below it, keys and fleets), STATE_TABLE; LEDGER_TABLE and SECURITY_HUB ("true") where wanted.
Event: what the schedule sends: everything since the last time, up to a quarter of an hour ago, when CloudTrail has delivered it (CloudTrail User Guide: within 15 minutes on average), five
minutes at a time, so that what piled up is worked off, and what an invocation did not get to is the next one's. By hand
``{"since": "2026-06-07T00:00:00Z", "until": …}``, at most 90 days back.
Answer: {"since", "until", "counts": {kind: number}, "uses": [{"time", "principal", "action", "key", "kind", "enclave", "set", "module_id", "pcrs", "ledger", …}], "truncated"}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from nitrokit.core.ledger import LedgerRecord
from nitrokit.handlers import settings
from nitrokit.handlers.auditor import Audited, Auditor, Records, kinds, window
from nitrokit.handlers.clients import RETRIES
from nitrokit.handlers.findings import Account, Publisher
from nitrokit.handlers.key_use import KeyUse, parse_event
from nitrokit.handlers.ledger_index import TableIndex
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.run_store import RunStore

SERVICE = "audit"
DELAY, FIRST, STEP = timedelta(minutes=15), timedelta(hours=1), timedelta(minutes=5)
_STEP_TAKES = timedelta(minutes=5)
MAX_USES = 1000
logger = Logger(service=SERVICE)
tracer = Tracer(service=SERVICE)


@tracer.capture_lambda_handler(capture_response=False)
def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler. Raises AuditError."""
    now = datetime.now(UTC)
    until = window(event.get("until"), now - DELAY)
    if "since" in event:
        since = window(event["since"], until)
        found = _auditing(os.environ)(since, until)
    else:
        since, until, found = _go_on(os.environ, until, context)
    told = {"since": since.isoformat(), "until": until.isoformat(), "counts": kinds(found)}
    logger.info("audited", **told)
    return {**told, "uses": [one.as_dict() for one in found[:MAX_USES]], "truncated": len(found) > MAX_USES}


def _go_on(environment: Mapping[str, str], until: datetime, context: Any) -> tuple[datetime, datetime, list[Audited]]:
    """From where the last one stopped, step by step while there is time: (since, how far it came, what was found)."""
    store = RunStore(boto3.client("dynamodb"), environment["STATE_TABLE"])
    audited, publisher = _auditing(environment), _publisher(environment, context)
    mark, found = store.mark(SERVICE), list[Audited]()
    since = reached = window(mark, until - FIRST)
    while reached < until and context.get_remaining_time_in_millis() > _STEP_TAKES.total_seconds() * 1000:
        end = min(reached + STEP, until)
        some = audited(reached, end)
        _report(some, publisher)
        store.set_mark(SERVICE, end.isoformat(), mark)
        reached, mark, found = end, end.isoformat(), found + some
    return since, reached, found


def _auditing(environment: Mapping[str, str]) -> Callable[[datetime, datetime], list[Audited]]:
    """What judges the uses of all keys in a window."""
    ssm, trail = boto3.client("ssm"), boto3.client("cloudtrail", config=RETRIES)
    auditor = Auditor(settings.fleets(ssm, environment), _records(environment.get("LEDGER_TABLE")))
    keys = settings.keys(ssm, environment)
    return lambda since, until: [auditor.audit(use) for key in keys for use in uses(trail, key.arn, since, until)]


def _publisher(environment: Mapping[str, str], context: Any) -> Publisher:
    hub = boto3.client("securityhub") if environment.get("SECURITY_HUB") == "true" else None
    return Publisher(Account.of(context.invoked_function_arn), boto3.client("events"), hub)


def uses(trail: Any, key: str, since: datetime, until: datetime) -> Iterator[KeyUse]:
    """What CloudTrail has of a key from ``since`` (included) to ``until`` (not included): its times are whole seconds, so that windows that meet neither miss nor repeat an event."""
    wanted = [{"AttributeKey": "ResourceName", "AttributeValue": key}]
    pages = trail.get_paginator("lookup_events").paginate(LookupAttributes=wanted, StartTime=since, EndTime=until)
    for page in pages:
        for event in page["Events"]:
            use = parse_event(json.loads(event["CloudTrailEvent"]), key)
            if use is not None and since <= use.time < until:
                yield use


def _records(table: str | None) -> Records | None:
    if table is None:
        return None
    ledger = Ledger(table)
    frontier, indexes = ledger.head().frontier, dict[str, TableIndex]()

    def records(enclave: str, host: str, first: int, last: int, *, backwards: bool) -> Iterator[LedgerRecord]:
        index = indexes.get(enclave) or indexes.setdefault(enclave, TableIndex(ledger, frontier, enclave))
        return index.records(host, first, last, backwards=backwards)

    return records


def _report(found: list[Audited], publisher: Publisher) -> None:
    publisher.publish([finding for one in found if (finding := one.as_finding())], datetime.now(UTC))
    for kind, count in kinds(found).items():
        with single_metric(name="KeyUses", unit=MetricUnit.Count, value=count, namespace="Nitrokit") as metric:
            metric.add_dimension(name="service", value=SERVICE)
            metric.add_dimension(name="Kind", value=kind)
