"""The Lambda that tells who decrypted what with which image: CloudTrail's attested KMS events, joined with the locks and the ledger.

Environment: SETTINGS_PATH (below it, keys and fleets), STATE_TABLE; LEDGER_TABLE and SECURITY_HUB ("true") where wanted.
Event: what the schedule sends: everything since the last time, up to a quarter of an hour ago, when CloudTrail has delivered it (CloudTrail User Guide: within 15 minutes on average). By hand
``{"since": "2026-06-07T00:00:00Z", "until": …}``, at most 90 days back.
Answer: {"since", "until", "counts": {kind: number}, "uses": [{"time", "principal", "action", "key", "kind", "enclave", "set", "module_id", "pcrs", "ledger", …}], "truncated"}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
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
DELAY, FIRST = timedelta(minutes=15), timedelta(hours=1)
MAX_USES = 1000
logger = Logger(service=SERVICE)
tracer = Tracer(service=SERVICE)


@tracer.capture_lambda_handler(capture_response=False)
def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler."""
    environment, now = os.environ, datetime.now(UTC)
    store = RunStore(boto3.client("dynamodb"), environment["STATE_TABLE"])
    by_hand = "since" in event
    mark = None if by_hand else store.mark(SERVICE)
    since, until = window(event.get("since") or mark, now - DELAY - FIRST), window(event.get("until"), now - DELAY)
    found = _audited(environment, since, until)
    if not by_hand:
        _report(found, environment, context)
        store.set_mark(SERVICE, until.isoformat(), mark)
    uses = [one.as_dict() for one in found[:MAX_USES]]
    told = {"since": since.isoformat(), "until": until.isoformat(), "counts": kinds(found)}
    logger.info("audited", **told)
    return {**told, "uses": uses, "truncated": len(found) > MAX_USES}


def _audited(environment: Mapping[str, str], since: datetime, until: datetime) -> list[Audited]:
    ssm = boto3.client("ssm")
    auditor = Auditor(settings.fleets(ssm, environment), _records(environment.get("LEDGER_TABLE")))
    trail = boto3.client("cloudtrail", config=RETRIES)
    return [auditor.audit(use) for key in settings.keys(ssm, environment) for use in uses(trail, key.arn, since, until)]


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

    def records(enclave: str, host: str, last: int) -> Iterator[LedgerRecord]:
        return indexes.setdefault(enclave, TableIndex(ledger, frontier, enclave)).records(host, 0, last, backwards=True)

    return records


def _report(found: list[Audited], environment: Mapping[str, str], context: Any) -> None:
    hub = boto3.client("securityhub") if environment.get("SECURITY_HUB") == "true" else None
    publisher = Publisher(Account.of(context.invoked_function_arn), boto3.client("events"), hub)
    publisher.publish([finding for one in found if (finding := one.as_finding())], datetime.now(UTC))
    for kind, count in kinds(found).items():
        with single_metric(name="KeyUses", unit=MetricUnit.Count, value=count, namespace="Nitrokit") as metric:
            metric.add_dimension(name="service", value=SERVICE)
            metric.add_dimension(name="Kind", value=kind)
