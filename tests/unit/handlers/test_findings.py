"""Findings of every kind in the form that Security Hub and EventBridge take, by botocore's models of their APIs, patterns and lengths included, which clients do not check."""

import json
import re
from datetime import UTC, datetime

import botocore.session
import pytest
from botocore.validate import ParamValidator

from nitrokit.core.key_policy import Grant
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.handlers.auditor import DEBUG, UNATTESTED, Audited
from nitrokit.handlers.checked import Checked
from nitrokit.handlers.findings import Account, as_asff, as_event
from nitrokit.handlers.hosts import Answer
from nitrokit.handlers.key_canary import opened
from nitrokit.handlers.key_guard import KeyState
from nitrokit.handlers.key_use import KeyUse
from nitrokit.handlers.settings import Fleet, GuardedKey
from nitrokit.handlers.verdict import Verdict

NOW = datetime(2026, 6, 7, tzinfo=UTC)
KEY = GuardedKey("Key", "arn:aws:kms:eu-west-1:123456789012:key/1", {})
USE = KeyUse("event", NOW, "Decrypt", "arn:aws:sts::123456789012:assumed-role/x/y", "", KEY.arn)
HOST, ARN = "i-0123456789abcdef0", "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0"


def _keeps(shape, value, path=""):
    """Assert what the model says of strings, lists and maps below a shape."""
    bounds = shape.metadata
    if shape.type_name == "structure":
        for name, one in value.items():
            _keeps(shape.members[name], one, f"{path}.{name}")
    elif shape.type_name == "list":
        for one in value:
            _keeps(shape.member, one, f"{path}[]")
    elif shape.type_name == "map":
        for name, one in value.items():
            _keeps(shape.key, name, f"{path} key")
            _keeps(shape.value, one, f"{path}.{name}")
    elif shape.type_name == "string":
        assert re.search(bounds.get("pattern", ""), value), (path, value)
        assert bounds.get("min", 0) <= len(value) <= bounds.get("max", 10**6), path


def _findings(measurements):
    fleet = Fleet("hello", "attest", "arn:aws:iam::123456789012:role/host", {}, ReferenceValues(measurements))
    unreachable = Checked(Answer(HOST, b"n", reason="Failed: " + "x\n" * 5000), None, NOW)
    passed = Checked(Answer(HOST, b"n", document=b""), Verdict(None, None, None), NOW)
    return {
        "unreachable": unreachable.as_finding(fleet, ARN),
        "recovered": passed.as_finding(fleet, ARN),
        "edited": KeyState(KEY, ("x" * 5000,), (), True, (Grant("g", "p", ("Decrypt",)),)).as_finding(restored=True),
        "intact": KeyState(KEY, (), ()).as_finding(restored=False),
        "opened": opened(KEY),
        "unattested": Audited(USE, UNATTESTED).as_finding(),
        "debug": Audited(USE, DEBUG).as_finding(),
    }


@pytest.mark.parametrize("kind", ["unreachable", "recovered", "edited", "intact", "opened", "unattested", "debug"])
def test_findings_are_what_the_services_take(measurements, kind):
    finding = _findings(measurements)[kind]
    session, account = botocore.session.get_session(), Account("aws", "eu-west-1", "123456789012")
    for service, operation, request in (
        ("securityhub", "BatchImportFindings", {"Findings": [as_asff(finding, account, NOW)]}),
        ("events", "PutEvents", {"Entries": [as_event(finding, NOW)]}),
    ):
        shape = session.get_service_model(service).operation_model(operation).input_shape
        assert not ParamValidator().validate(request, shape).has_errors()
        _keeps(shape, request)
    asff, event = as_asff(finding, account, NOW), as_event(finding, NOW)
    assert json.loads(event["Detail"])["id"] == asff["Id"]
    # Security Hub User Guide "Required top-level ASFF attributes" and "Optional top-level ASFF attributes", which the model leaves out.
    assert (len(asff["Title"]) <= 256, len(asff["Description"]) <= 1024, len(asff["Id"]) <= 512) == (True, True, True)
    assert len(event["Detail"].encode()) < 256_000
    assert {"FAILED": "ACTIVE", "PASSED": "ARCHIVED"}[asff["Compliance"]["Status"]] == asff["RecordState"]
