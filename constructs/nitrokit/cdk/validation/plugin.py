"""NitrokitChecks: the rules as a plugin of the CDK's policy validation."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
        found = [one for one in check_app(self._read(context)) if not _is_acknowledged(one, context.app_construct)]
        success = all(one.rule.severity < Severity.HIGH for one in found)
        return PolicyValidationPluginReport(success=success, violations=[_reported(one) for one in found], plugin_version=__version__)

    def _read(self, context: IPolicyValidationContext) -> App:
        templates = []
        for stack in context.stack_templates:
            partition = RegionInfo.get(stack.region).partition if stack.region else None
            default = Environment()
            environment = Environment(stack.account_id or default.account, partition or default.partition, stack.region or default.region)
            templates.append(_template(stack.stack_construct_path, Path(stack.template_path), environment))
        templates += _nested(context.app_construct, {one.stack_path: one for one in templates})
        strict = context.app_construct.node.try_get_context("@aws-cdk/core:validateAgainstDefaultRules")
        return App(tuple(templates), self._time or datetime.now(UTC), default_rules=str(strict).lower() == "true")


def _template(stack_path: str, path: Path, environment: Environment) -> Template:
    body = json.loads(path.read_text())
    here = replace(environment, parameters=defaults(body.get("Parameters")))
    return Template(stack_path, str(path), body.get("Resources") or {}, here, body.get("Outputs") or {})


def _nested(root: IConstruct, outer: dict[str, Template]) -> list[Template]:
    """Nested stacks, which the CDK does not name: their templates lie beside that of the stack around them."""
    found = []
    for stack in root.node.find_all():
        if isinstance(stack, Stack) and stack.nested:
            around = next(outer[scope.node.path] for scope in reversed(stack.node.scopes) if scope.node.path in outer)
            found.append(_template(stack.node.path, Path(around.path).with_name(stack.template_file), around.environment))
    return found


def _reported(one: Violation) -> PolicyViolation:
    where = PolicyViolatingResource(resource_logical_id=one.logical_id, template_path=one.template.path, locations=[one.location])
    severity = "error" if one.rule.severity >= Severity.HIGH else "warning"
    return PolicyViolation(
        rule_name=one.rule.id, description=one.description, fix=one.rule.fix, severity=severity, violating_resources=[where]
    )


def _is_acknowledged(one: Violation, root: IConstruct) -> bool:
    """By the construct or a scope of it. The CDK itself knows ids with the plugin's name before them alone."""
    construct = _construct(one, root)
    scopes = construct.node.scopes if construct is not None else []
    return any(one.rule.id in _acknowledged(scope) for scope in scopes)


def _construct(one: Violation, root: IConstruct) -> IConstruct | None:
    for stack in root.node.find_all():
        if isinstance(stack, Stack) and stack.node.path == one.template.stack_path:
            elements = (element for element in stack.node.find_all() if isinstance(element, CfnElement))
            own = (element for element in elements if element.stack.node.path == stack.node.path)  # not a nested stack's
            return next((element for element in own if stack.resolve(element.logical_id) == one.logical_id), None)
    return None


def _acknowledged(construct: IConstruct) -> Iterator[str]:
    for entry in construct.node.metadata:
        if entry.type == Validations.ACKNOWLEDGED_RULES_METADATA_KEY:
            yield from (id.rpartition("::")[2] for id in entry.data)
