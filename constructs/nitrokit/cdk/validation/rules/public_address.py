"""Parents with a public address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nitrokit.cdk.validation.model import App, Rule, Violation, as_list
from nitrokit.cdk.validation.parents import Parent, parents
from nitrokit.cdk.validation.references import References
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
    interfaces = [one for _, value in parent.values("NetworkInterfaces") for one in as_list(value) if isinstance(one, Mapping)]
    asked = {str(one.get("AssociatePublicIpAddress")).lower() for one in interfaces}
    if "true" in asked:
        return "AssociatePublicIpAddress"
    return _elastic(parent, app) or (None if "false" in asked else _public_subnet(parent, app))


def _elastic(parent: Parent, app: App) -> str | None:
    instances = [(parent.template, parent.logical_id), *((template, logical_id) for template, logical_id, _ in parent.launched)]
    references = [References(app, template, logical_id) for template, logical_id in instances]
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::EC2::EIP", "AWS::EC2::EIPAssociation"):
            if any(one.found_in(properties.get("InstanceId"), template) for one in references):
                return logical_id
    return None


def _public_subnet(parent: Parent, app: App) -> str | None:
    placed = parent.values("SubnetId", "NetworkInterfaces", "VPCZoneIdentifier", "LaunchTemplateConfigs", "SpotFleetRequestConfigData")
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::EC2::Subnet"):
            if str(properties.get("MapPublicIpOnLaunch")).lower() == "true":
                references = References(app, template, logical_id)
                if any(references.found_in(value, one) for one, value in placed):
                    return logical_id
    return None
