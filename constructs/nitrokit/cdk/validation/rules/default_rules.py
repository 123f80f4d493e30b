"""CloudFormation's own findings, which are warnings unless an app says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/default-rules",
    Severity.LOW,
    "errors that CloudFormation would find in the template are warnings here",
    'set "@aws-cdk/core:validateAgainstDefaultRules": true in cdk.json',
)
RULES = (RULE,)


def check(app: App) -> Iterator[Violation]:
    """Once for an app: at its first resource."""
    for template in app.templates:
        for logical_id in template.resources:
            if not app.default_rules:
                yield RULE.at(template, logical_id)
            return
