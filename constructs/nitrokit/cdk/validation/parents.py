"""Parent instances in a template: EC2 instances and launch templates with ``EnclaveOptions``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.cdk.validation.model import App, Template


@dataclass(frozen=True)
class Parent:
    """``data``: the launch settings; ``location``: where they stand below the resource."""

    template: Template
    logical_id: str
    data: Mapping[str, Any]
    location: str


def parents(app: App) -> Iterator[Parent]:
    """All of them. An instance that takes its settings from a launch template is found there."""
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::EC2::Instance"):
            if _is_enabled(properties):
                yield Parent(template, logical_id, properties, "Properties")
        for logical_id, properties in template.of_type("AWS::EC2::LaunchTemplate"):
            data = properties.get("LaunchTemplateData") or {}
            if _is_enabled(data):
                yield Parent(template, logical_id, data, "Properties.LaunchTemplateData")


def _is_enabled(data: Mapping[str, Any]) -> bool:
    options = data.get("EnclaveOptions")
    return isinstance(options, dict) and str(options.get("Enabled")).lower() == "true"
