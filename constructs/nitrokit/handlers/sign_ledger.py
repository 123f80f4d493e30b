"""The Lambda that signs the ledger and exports what it signed, on a schedule.

Environment: LEDGER_TABLE, LEDGER_ORIGIN (the ledger's name in its checkpoints), LEDGER_KEY (the KMS key that signs), LEDGER_BUCKET.
Answer: {"entries", "root" (hex), "time"}: the checkpoint up to which the ledger is signed and exported. A ledger that does not continue its last checkpoint, in the table or the bucket, is
not signed: the function fails, and its alarm tells.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from nitrokit.core.ledger import Checkpoint
from nitrokit.handlers.ledger_export import BucketStore, export_ledger, last_checkpoint
from nitrokit.handlers.ledger_signing import kms_signer, sign_ledger
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.tracing import fast_tracer

NAMESPACE, SERVICE = "Nitrokit", "sign-ledger"
logger = Logger(service=SERVICE)
metrics = Metrics(namespace=NAMESPACE, service=SERVICE)
tracer = fast_tracer(SERVICE)


@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """The Lambda's handler."""
    del event, context
    metrics.add_dimension(name="Ledger", value=os.environ["LEDGER_TABLE"])
    checkpoint = sign_and_export(os.environ, datetime.now(UTC))
    metrics.add_metric(name="LedgerSigned", unit=MetricUnit.Count, value=1)
    metrics.add_metric(name="LedgerEntries", unit=MetricUnit.Count, value=checkpoint.size)
    answer = {"entries": checkpoint.size, "root": checkpoint.root.hex(), "time": checkpoint.time.isoformat()}
    logger.info("the ledger is signed", **answer)
    return answer


def sign_and_export(environment: Mapping[str, str], time: datetime) -> Checkpoint:
    """Sign the ledger at ``time`` and bring its export up to it. Raises LedgerError, LedgerUnavailableError, LedgerSigningError, ExportError."""
    signer = kms_signer(environment["LEDGER_ORIGIN"], environment["LEDGER_KEY"], boto3.client("kms"))
    ledger, store = Ledger(environment["LEDGER_TABLE"]), BucketStore(environment["LEDGER_BUCKET"], boto3.client("s3"))
    exported = last_checkpoint(store, signer.key.public_key)
    sign_ledger(ledger, signer, time, known=[exported] if exported else [])
    return export_ledger(ledger, store, signer.key.public_key)
