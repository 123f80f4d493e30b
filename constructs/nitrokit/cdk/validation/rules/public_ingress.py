"""Parents that the whole Internet may connect to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nitrokit.cdk.validation.model import App, Rule, Violation, as_list, refers_to
from nitrokit.cdk.validation.parents import Parent, parents
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
    for parent in parents(app):
        for template in app.templates:
            for logical_id, properties in template.of_type("AWS::EC2::SecurityGroup"):
                if _has_group(parent, logical_id) and any(map(_is_open, as_list(properties.get("SecurityGroupIngress")))):
                    yield RULE.at(template, logical_id, detail=f"of {parent.logical_id}", location="Properties.SecurityGroupIngress")
            for logical_id, properties in template.of_type("AWS::EC2::SecurityGroupIngress"):
                if _is_open(properties) and any(
                    refers_to(group, one) for group in [properties.get("GroupId")] for one in _groups(parent, app)
                ):
                    yield RULE.at(template, logical_id, detail=f"of {parent.logical_id}")


def _is_open(rule: Any) -> bool:
    return isinstance(rule, Mapping) and (rule.get("CidrIp") in _ANYWHERE or rule.get("CidrIpv6") in _ANYWHERE)


def _groups(parent: Parent, app: App) -> list[str]:
    return [one for template in app.templates for one, _ in template.of_type("AWS::EC2::SecurityGroup") if _has_group(parent, one)]


def _has_group(parent: Parent, logical_id: str) -> bool:
    wanted = [parent.data.get(name) for name in ("SecurityGroupIds", "SecurityGroups", "NetworkInterfaces")]
    return refers_to(wanted, logical_id)
