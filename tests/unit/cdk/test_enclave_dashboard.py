"""The dashboard shows what the attestation report shows: what is locked and until when, who proved what, and why somebody did not."""

import json
import re
from datetime import UTC, datetime

from aws_cdk.assertions import Template

from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_dashboard import EnclaveDashboard
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.handlers.checked import Checked
from nitrokit.handlers.hosts import Answer
from nitrokit.handlers.settings import Fleet

OLD = Measurements(digest([b"old"]), digest([b"boot"]), digest([b"old app"]))


def test_it_shows_locks_with_dates_counts_and_reasons(new_stack, eif_file, eif_lock):
    stack = new_stack()
    values = ReferenceValues(eif_lock, (RetiringSet(OLD, datetime(2036, 6, 7, 12, tzinfo=UTC)),))
    image = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=values)
    host = EnclaveHost(stack, "Host")
    bootstrap = EnclaveBootstrap(stack, "Run", parent=host, image=image)
    monitor = AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap])
    EnclaveDashboard(stack, "Dashboard", monitors=[monitor], bootstraps=[bootstrap], parents=[host])
    ((_, dashboard),) = Template.from_stack(stack).find_resources("AWS::CloudWatch::Dashboard").items()
    parts = dashboard["Properties"]["DashboardBody"]["Fn::Join"][1]
    body = json.loads("".join(one if isinstance(one, str) else "x" for one in parts))
    text, *_ = [one["properties"]["markdown"] for one in body["widgets"] if one["type"] == "text"]
    assert f"**small** is locked to PCR0 `{eif_lock.pcr0.hex()}`" in text
    assert f"until 2036-06-07 12:00 UTC: `{OLD.pcr0.hex()}`" in text
    shown = json.dumps(body)
    for metric in ("AttestationPassed", "EnclavesPassed", "EnclavesFailed", "EnclavesUnreachable", "EnclaveHealthy"):
        assert metric in shown
    (query,) = [one["properties"]["query"] for one in body["widgets"] if one["type"] == "log"]
    failed = Checked(Answer("i-0123", b"", reason="no answer"), None, datetime.now(UTC)).as_failure(Fleet("small", "d", "r", {}, values))
    asked = set(re.findall(r"failures\.0\.(\w+)", query))
    assert asked
    assert asked <= set(failed), "what the query reads is what check_enclaves logs"
