"""Parents that the whole Internet may connect to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
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
_LEADING_ZEROS = re.compile(r"\b0+(?=\d)")
_WIDEST = {4: 8, 6: 16}
"""Prefix lengths: the largest block that registries give one organisation is a /8 of IPv4, or near a /16 of IPv6 (IANA "IPv4 Address Space Registry", "IPv6 Global Unicast Address Assignments")."""


def check(app: App) -> Iterator[Violation]:
    """Ingress rules, inline or by themselves, of the groups of every parent."""
    groups = [(template, *one) for template in app.templates for one in template.of_type("AWS::EC2::SecurityGroup")]
    lists = _Lists(app)
    for parent in parents(app):
        for template, logical_id, properties in groups:
            references = References(app, template, logical_id)
            if _is_in(parent, references):
                detail = f"of {parent.logical_id}"
                if lists.lets_anybody_in(template, properties.get("SecurityGroupIngress")):
                    yield RULE.at(template, logical_id, detail=detail, location="Properties.SecurityGroupIngress")
                for other, rule in _open_rules(app, references, lists):
                    yield RULE.at(other, rule, detail=detail)


def _is_in(parent: Parent, group: References) -> bool:
    wanted = parent.values("SecurityGroupIds", "SecurityGroups", "NetworkInterfaces", "LaunchTemplateConfigs", "SpotFleetRequestConfigData")
    return any(group.found_in(value, template) for template, value in wanted)


def _open_rules(app: App, group: References, lists: _Lists) -> Iterator[tuple[Template, str]]:
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::EC2::SecurityGroupIngress"):
            if group.found_in(properties.get("GroupId"), template) and lists.lets_anybody_in(template, properties):
                yield template, logical_id


class _Lists:
    """The app's own prefix lists with an entry for anybody. What is in others nobody here knows."""

    def __init__(self, app: App) -> None:
        lists = [(template, *one) for template in app.templates for one in template.of_type("AWS::EC2::PrefixList")]
        self._open = [
            References(app, template, name) for template, name, one in lists if _is_anybody(template.possible(one.get("Entries")))
        ]

    def lets_anybody_in(self, template: Template, rules: Any) -> bool:
        """Whether any of these ingress rules does, whatever conditions decide."""
        for rule in as_list(rules):
            if _is_anybody(template.possible(rule)) or any(one.found_in(rule, template) for one in self._open):
                return True
        return False


def _is_anybody(rules: Any) -> bool:
    """Whether there is a block of addresses that nobody has alone, in rules or in entries of a prefix list."""
    blocks = [rule.get(name) for rule in as_list(rules) if isinstance(rule, Mapping) for name in ("CidrIp", "CidrIpv6", "Cidr")]
    return any(_is_wide(block) for one in blocks for block in as_list(one))


def _is_wide(block: Any) -> bool:
    try:
        network = ip_network(_LEADING_ZEROS.sub("", str(block)), strict=False)
    except ValueError:
        return False  # known at deployment alone, or no address
    return network.prefixlen < _WIDEST[network.version] and not network.is_private
