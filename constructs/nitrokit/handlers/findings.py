"""Findings: what somebody should look at, to EventBridge, and to Security Hub where it is used.

Sources: AWS Security Hub User Guide "AWS Security Finding Format (ASFF)" and API Reference "BatchImportFindings" (100 findings; one of the same Id is replaced); EventBridge API Reference
"PutEvents" (10 entries). A finding's id is made of what it is about, so that reporting it again replaces it and never counts twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nitrokit.errors import NitrokitError

SOURCE, DETAIL_TYPE = "nitrokit", "Nitrokit Finding"
_EVENTS, _IMPORTS = 10, 100
_TYPES = ["Software and Configuration Checks/AWS Security Best Practices/Confidential Computing"]


class PublishError(NitrokitError):
    """Findings that a service did not take."""

    area = "findings"


@dataclass(frozen=True)
class Finding:
    """``subject``: what it is about, stable. ``resource``: ARN and ASFF type. ``passed``: it was wrong and is right again. ``severity``: as in ASFF, e.g. CRITICAL."""

    kind: str
    subject: str
    title: str
    description: str
    severity: str
    resource: tuple[str, str]
    remedy: str
    passed: bool = False
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"nitrokit/{self.kind}/{self.subject}"


@dataclass(frozen=True)
class Account:
    """Where a function runs, from its own ARN."""

    partition: str
    region: str
    account: str

    @classmethod
    def of(cls, arn: str) -> Account:
        _, partition, _, region, account, *_ = arn.split(":")
        return cls(partition, region, account)


def as_asff(finding: Finding, account: Account, time: datetime) -> dict[str, Any]:
    """One finding in Security Hub's format."""
    now = time.isoformat().replace("+00:00", "Z")
    arn, kind = finding.resource
    return {
        "SchemaVersion": "2018-10-08",
        "Id": finding.id,
        "ProductArn": f"arn:{account.partition}:securityhub:{account.region}:{account.account}:product/{account.account}/default",
        "GeneratorId": f"nitrokit/{finding.kind}",
        "AwsAccountId": account.account,
        "Types": _TYPES,
        "CreatedAt": now,
        "UpdatedAt": now,
        "Severity": {"Label": "INFORMATIONAL" if finding.passed else finding.severity},
        "Title": finding.title[:256],
        "Description": finding.description[:1024],
        "Remediation": {"Recommendation": {"Text": finding.remedy[:512]}},
        "ProductFields": {f"nitrokit/{name}": value[:2048] for name, value in finding.details.items() if value},
        "Resources": [{"Type": kind, "Id": arn, "Partition": account.partition, "Region": account.region}],
        "Compliance": {"Status": "PASSED" if finding.passed else "FAILED"},
        "Workflow": {"Status": "RESOLVED" if finding.passed else "NEW"},
        "RecordState": "ARCHIVED" if finding.passed else "ACTIVE",
    }


def as_event(finding: Finding, time: datetime) -> dict[str, Any]:
    """One finding as an entry of PutEvents; ``detail.id`` is the same for the same thing, for those who must not act twice."""
    detail = {
        "id": finding.id, "kind": finding.kind, "status": "PASSED" if finding.passed else "FAILED", "severity": finding.severity, "title": finding.title,
        "description": finding.description[:1024], "remedy": finding.remedy, "resource": finding.resource[0], **finding.details,
    }  # fmt: skip
    return {"Time": time, "Source": SOURCE, "DetailType": DETAIL_TYPE, "Resources": [finding.resource[0]], "Detail": json.dumps(detail)}


@dataclass(frozen=True)
class Publisher:
    """``events``, ``security_hub``: boto3 clients; without the latter Security Hub is not told."""

    account: Account
    events: Any
    security_hub: Any = None

    def publish(self, findings: Sequence[Finding], time: datetime) -> None:
        """Report findings. Raises PublishError where a service took a part only: reporting them again is harmless."""
        for some in _slices(findings, _EVENTS):
            answer = self.events.put_events(Entries=[as_event(one, time) for one in some])
            _require_none(answer["FailedEntryCount"], "EventBridge", answer["Entries"])
        if self.security_hub is not None:
            for some in _slices(findings, _IMPORTS):
                answer = self.security_hub.batch_import_findings(Findings=[as_asff(one, self.account, time) for one in some])
                _require_none(answer["FailedCount"], "Security Hub", answer.get("FailedFindings"))


def _slices(findings: Sequence[Finding], size: int) -> Iterator[Sequence[Finding]]:
    return (findings[start : start + size] for start in range(0, len(findings), size))


def _require_none(failed: int, service: str, details: Iterable[Mapping[str, Any]] | None) -> None:
    if failed:
        causes = {str(one.get("ErrorCode")) for one in details or () if one.get("ErrorCode")}
        raise PublishError(
            "refused",
            f"{service} did not take all findings",
            got=f"{failed}: {', '.join(sorted(causes))}",
            expected="0",
            do="invoke the function again",
        )
