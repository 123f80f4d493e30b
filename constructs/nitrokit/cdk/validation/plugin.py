"""NitrokitChecks: the rules as a plugin of the CDK's policy validation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsii
from aws_cdk import (
    CfnElement,
    IPolicyValidationContext,
    IPolicyValidationPlugin,
    PolicyValidationPluginReport,
    PolicyViolatingResource,
    PolicyViolation,
    Stack,
    Validations,
)
from aws_cdk.region_info import RegionInfo
from constructs import IConstruct

from nitrokit._version import __version__
from nitrokit.cdk.validation.model import App, Template, Violation, defaults
from nitrokit.cdk.validation.rules import RULES, check_app
from nitrokit.core.intrinsics import Environment
from nitrokit.core.key_policy import Severity

NAME = "NitrokitChecks"


@jsii.implements(IPolicyValidationPlugin)
class NitrokitChecks:
    """``Validations.of(app).add_plugins(NitrokitChecks())``: a broken rule of severity high or worse fails the synthesis, others warn (docs/rules.md).

    A rule is acknowledged on the construct that breaks it, or on a scope of it: ``Validations.of(construct).acknowledge(Acknowledgment(id="nitrokit/…", reason="…"))``.
    ``time``: at which sets of measurements retire; default: now.
    """

    def __init__(self, *, time: datetime | None = None) -> None:
        self._time = time

    @property
    @jsii.member(jsii_name="name")
    def name(self) -> str:
        """The plugin's name in the report."""
        return NAME

    @property
    @jsii.member(jsii_name="version")
    def version(self) -> str:
        """The package's version."""
        return __version__

    @property
    @jsii.member(jsii_name="ruleIds")
    def rule_ids(self) -> list[str]:
        """The ids of all rules."""
        return list(RULES)

    @jsii.member(jsii_name="validate")
    def validate(self, context: IPolicyValidationContext) -> PolicyValidationPluginReport:
        """Called by the CDK when the templates are written."""
        scopes = _Scopes(context.app_construct)
        found = [one for one in check_app(self._read(context, scopes)) if not scopes.acknowledge(one)]
        success = all(one.rule.severity < Severity.HIGH for one in found)
        return PolicyValidationPluginReport(success=success, violations=[_reported(one) for one in found], plugin_version=__version__)

    def _read(self, context: IPolicyValidationContext, scopes: _Scopes) -> App:
        templates = []
        for stack in context.stack_templates:
            partition = RegionInfo.get(stack.region).partition if stack.region else None
            default = Environment()
            environment = Environment(stack.account_id or default.account, partition or default.partition, stack.region or default.region)
            templates.append(_template(stack.stack_construct_path, Path(stack.template_path), environment))
        templates += _nested(scopes.stacks, {one.stack_path: one for one in templates})
        strict = context.app_construct.node.try_get_context("@aws-cdk/core:validateAgainstDefaultRules")
        return App(tuple(templates), self._time or datetime.now(UTC), default_rules=str(strict).lower() == "true")


def _template(stack_path: str, path: Path, environment: Environment) -> Template:
    body = json.loads(path.read_text())
    here = replace(environment, parameters=defaults(body.get("Parameters")))
    return Template(stack_path, str(path), body.get("Resources") or {}, here, body.get("Outputs") or {})


def _nested(stacks: Mapping[str, Stack], outer: dict[str, Template]) -> list[Template]:
    """Nested stacks, which the CDK does not name: their templates lie beside that of the stack around them."""
    found = []
    for path, stack in stacks.items():
        if stack.nested:
            around = next(outer[scope.node.path] for scope in reversed(stack.node.scopes) if scope.node.path in outer)
            found.append(_template(path, Path(around.path).with_name(stack.template_file), around.environment))
    return found


def _reported(one: Violation) -> PolicyViolation:
    where = PolicyViolatingResource(resource_logical_id=one.logical_id, template_path=one.template.path, locations=[one.location])
    severity = "error" if one.rule.severity >= Severity.HIGH else "warning"
    return PolicyViolation(
        rule_name=one.rule.id, description=one.description, fix=one.rule.fix, severity=severity, violating_resources=[where]
    )


class _Scopes:
    """The constructs behind the templates. Each call of theirs goes to the CDK's process and back: none is made twice."""

    def __init__(self, root: IConstruct) -> None:
        self.stacks = {one.node.path: one for one in root.node.find_all() if isinstance(one, Stack)}
        self._elements: dict[str, list[tuple[str, CfnElement]]] = {}

    def acknowledge(self, one: Violation) -> bool:
        """Whether its construct or a scope of it does. The CDK itself knows ids with the plugin's name before them alone."""
        construct = self._construct(one)
        scopes = construct.node.scopes if construct is not None else []
        return any(one.rule.id in _acknowledged(scope) for scope in scopes)

    def _construct(self, one: Violation) -> CfnElement | None:
        path = one.template.stack_path
        named = (element for name, element in self._named(path) if name == one.logical_id)
        return next((element for element in named if element.stack.node.path == path), None)

    def _named(self, path: str) -> list[tuple[str, CfnElement]]:
        """The elements of a stack, and of those nested in it, by their logical ids."""
        if path not in self._elements and path in self.stacks:
            stack = self.stacks[path]
            elements = [one for one in stack.node.find_all() if isinstance(one, CfnElement)]
            names = stack.resolve([one.logical_id for one in elements])
            self._elements[path] = list(zip(names, elements, strict=True))
        return self._elements.get(path, [])


def _acknowledged(construct: IConstruct) -> Iterator[str]:
    for entry in construct.node.metadata:
        if entry.type == Validations.ACKNOWLEDGED_RULES_METADATA_KEY:
            yield from (id.rpartition("::")[2] for id in entry.data)
