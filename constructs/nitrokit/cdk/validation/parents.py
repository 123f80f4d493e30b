"""Parent instances in a template: EC2 instances and launch templates with ``EnclaveOptions``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.cdk.validation.model import App, Template
from nitrokit.cdk.validation.references import References

_INSTANCE, _LAUNCH_TEMPLATE = "AWS::EC2::Instance", "AWS::EC2::LaunchTemplate"
_LAUNCHING = (_INSTANCE, "AWS::AutoScaling::AutoScalingGroup", "AWS::EC2::EC2Fleet", "AWS::EC2::SpotFleet")
_Resource = tuple[Template, str, Mapping[str, Any]]


@dataclass(frozen=True)
class Parent:
    """``data``: the launch settings; ``location``: where they stand below the resource. ``launched``: the instances and fleets that a launch template is used by."""

    template: Template
    logical_id: str
    data: Mapping[str, Any]
    location: str
    launched: tuple[_Resource, ...] = ()

    def values(self, *names: str) -> list[tuple[Template, Any]]:
        """What these settings are, here and where it is launched, each with the template that says so."""
        places = [(self.template, self.data), *((template, properties) for template, _, properties in self.launched)]
        return [(template, place[name]) for template, place in places for name in names if place.get(name) is not None]


def parents(app: App) -> Iterator[Parent]:
    """All of them. An instance that takes its enclave setting from a launch template is found there."""
    for template in app.templates:
        for logical_id, properties in template.of_type(_INSTANCE):
            if _is_enabled(properties):
                own = {name: value for name, value in properties.items() if value is not None}
                yield Parent(template, logical_id, {**_inherited(app, template, properties), **own}, "Properties")
    for template, logical_id, data in _launch_templates(app):
        if _is_enabled(data):
            yield Parent(template, logical_id, data, "Properties.LaunchTemplateData", tuple(_launched(app, template, logical_id)))


def _launch_templates(app: App) -> Iterator[_Resource]:
    for template in app.templates:
        for logical_id, properties in template.of_type(_LAUNCH_TEMPLATE):
            yield template, logical_id, properties.get("LaunchTemplateData") or {}


def _launched(app: App, template: Template, logical_id: str) -> Iterator[_Resource]:
    references = References(app, template, logical_id)
    for one in app.templates:
        for user, properties in one.of_type(*_LAUNCHING):
            if references.found_in(properties, one):
                yield one, user, properties


def _inherited(app: App, template: Template, instance: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an instance takes from its launch template where it says nothing itself."""
    given = instance.get("LaunchTemplate")
    found = (
        data for one, logical_id, data in _launch_templates(app) if given and References(app, one, logical_id).found_in(given, template)
    )
    return next(found, {})


def _is_enabled(data: Mapping[str, Any]) -> bool:
    """What a condition or a parameter decides may be enabled."""
    options = data.get("EnclaveOptions")
    return '"Enabled"' in json.dumps(options) and (not isinstance(options, dict) or str(options.get("Enabled")).lower() != "false")
