"""Parents that the whole Internet may connect to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nitrokit.cdk.validation.model import App, Rule, Template, Violation, as_list
from nitrokit.cdk.validation.parents import Parent, parents
from nitrokit.cdk.validation.references import References
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/public-ingress",
    Severity.HIGH,
    "the parent's security group lets anybody in",
    "let a load balancer or named security groups in; reach the parent itself by Systems Manager",
)
RULES = (RULE,)
_ANYWHERE = ("0.0.0.0/0", "::/0")


def check(app: App) -> Iterator[Violation]:
    """Ingress rules, inline or by themselves, of the groups of every parent."""
    groups = [(template, *one) for template in app.templates for one in template.of_type("AWS::EC2::SecurityGroup")]
    for parent in parents(app):
        for template, logical_id, properties in groups:
            references = References(app, template, logical_id)
            if _is_in(parent, references):
                detail = f"of {parent.logical_id}"
                if any(map(_is_open, as_list(properties.get("SecurityGroupIngress")))):
                    yield RULE.at(template, logical_id, detail=detail, location="Properties.SecurityGroupIngress")
                for other, rule in _open_rules(app, references):
                    yield RULE.at(other, rule, detail=detail)


def _is_in(parent: Parent, group: References) -> bool:
    wanted = parent.values("SecurityGroupIds", "SecurityGroups", "NetworkInterfaces", "LaunchTemplateConfigs", "SpotFleetRequestConfigData")
    return any(group.found_in(value, template) for template, value in wanted)


def _open_rules(app: App, group: References) -> Iterator[tuple[Template, str]]:
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::EC2::SecurityGroupIngress"):
            if _is_open(properties) and group.found_in(properties.get("GroupId"), template):
                yield template, logical_id


def _is_open(rule: Any) -> bool:
    return isinstance(rule, Mapping) and (rule.get("CidrIp") in _ANYWHERE or rule.get("CidrIpv6") in _ANYWHERE)
