"""Parents whose role's credentials are easier to steal than they need be."""

from __future__ import annotations

from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.cdk.validation.parents import parents
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/imdsv1",
    Severity.HIGH,
    "the parent answers IMDSv1, or IMDSv2 over more than one hop: a request forged by something on it gets the role's credentials",
    'set HttpTokens "required" and HttpPutResponseHopLimit 1; the agent hands enclaves the credentials',
)
RULES = (RULE,)


def check(app: App) -> Iterator[Violation]:
    """MetadataOptions of every parent. EC2's default hop limit is 1, its default for tokens depends on the account."""
    for parent in parents(app):
        options = parent.data.get("MetadataOptions") or {}
        if options.get("HttpEndpoint") == "disabled":
            continue
        if options.get("HttpTokens") != "required" or str(options.get("HttpPutResponseHopLimit", 1)) != "1":
            yield RULE.at(parent.template, parent.logical_id, location=f"{parent.location}.MetadataOptions")
