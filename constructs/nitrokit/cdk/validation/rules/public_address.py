"""Parents with a public address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nitrokit.cdk.validation.model import App, Rule, Violation, as_list, refers_to
from nitrokit.cdk.validation.parents import Parent, parents
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/public-address",
    Severity.HIGH,
    "the parent gets a public IP address",
    "put it into a subnet without public addresses: EnclaveNetwork has all endpoints that it needs",
)
RULES = (RULE,)


def check(app: App) -> Iterator[Violation]:
    """Addresses that a network interface asks for, that a subnet gives, and Elastic IP addresses."""
    for parent in parents(app):
        if detail := _address(parent, app):
            yield RULE.at(parent.template, parent.logical_id, detail=detail, location=parent.location)


def _address(parent: Parent, app: App) -> str | None:
    asked = [one.get("AssociatePublicIpAddress") for one in as_list(parent.data.get("NetworkInterfaces")) if isinstance(one, Mapping)]
    if any(str(one).lower() == "true" for one in asked):
        return "AssociatePublicIpAddress"
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::EC2::EIP", "AWS::EC2::EIPAssociation"):
            if refers_to(properties.get("InstanceId"), parent.logical_id):
                return logical_id
        for logical_id, properties in template.of_type("AWS::EC2::Subnet"):
            given = str(properties.get("MapPublicIpOnLaunch")).lower() == "true"
            if given and refers_to([parent.data.get("SubnetId"), parent.data.get("NetworkInterfaces")], logical_id) and False not in asked:
                return logical_id
    return None
