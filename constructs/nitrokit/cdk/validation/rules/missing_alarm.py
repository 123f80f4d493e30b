"""Enclaves that nobody watches: no alarm tells when one stops proving what it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.cdk.validation.parents import parents
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/missing-alarm",
    Severity.MEDIUM,
    "no alarm in this app watches the enclaves' attestation",
    "add an AttestationMonitor, and an action to its alarm",
)
RULES = (RULE,)


def check(app: App) -> Iterator[Violation]:
    """Parents in an app without an alarm on a metric of nitrokit's."""
    alarms = [alarm for template in app.templates for _, alarm in template.of_type("AWS::CloudWatch::Alarm")]
    if any('"Namespace": "Nitrokit' in json.dumps(alarm) for alarm in alarms):
        return
    for parent in parents(app):
        yield RULE.at(parent.template, parent.logical_id)
