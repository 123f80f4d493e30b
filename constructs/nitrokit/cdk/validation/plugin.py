"""NitrokitChecks: the rules as a plugin of the CDK's policy validation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsii
from aws_cdk import (
    IPolicyValidationContext,
    IPolicyValidationPlugin,
    PolicyValidationPluginReport,
    PolicyViolatingResource,
    PolicyViolation,
)
from aws_cdk.region_info import RegionInfo
from constructs import IConstruct

from nitrokit._version import __version__
from nitrokit.cdk.validation.metadata import ACKNOWLEDGED, StackMetadata, rule_ids
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
        constructs = _Constructs(context.app_construct)
        found = [one for one in check_app(self._read(context, constructs)) if not constructs.acknowledge(one)]
        success = all(one.rule.severity < Severity.HIGH for one in found)
        return PolicyValidationPluginReport(success=success, violations=[_reported(one) for one in found], plugin_version=__version__)

    def _read(self, context: IPolicyValidationContext, constructs: _Constructs) -> App:
        templates = []
        for stack in context.stack_templates:
            partition = RegionInfo.get(stack.region).partition if stack.region else None
            default = Environment()
            environment = Environment(stack.account_id or default.account, partition or default.partition, stack.region or default.region)
            templates.append(_template(stack.stack_construct_path, Path(stack.template_path), environment))
        templates += [inner for outer in templates for inner in constructs.nested(outer)]
        strict = context.app_construct.node.try_get_context("@aws-cdk/core:validateAgainstDefaultRules")
        return App(tuple(templates), self._time or datetime.now(UTC), default_rules=str(strict).lower() == "true")


def _template(stack_path: str, path: Path, environment: Environment) -> Template:
    body = json.loads(path.read_text())
    here = replace(environment, parameters=defaults(body.get("Parameters")))
    return Template(stack_path, str(path), body.get("Resources") or {}, here, body.get("Outputs") or {})


def _reported(one: Violation) -> PolicyViolation:
    where = PolicyViolatingResource(resource_logical_id=one.logical_id, template_path=one.template.path, locations=[one.location])
    severity = "error" if one.rule.severity >= Severity.HIGH else "warning"
    return PolicyViolation(
        rule_name=one.rule.id, description=one.description, fix=one.rule.fix, severity=severity, violating_resources=[where]
    )


class _Constructs:
    """What the constructs behind an app's templates acknowledge."""

    def __init__(self, root: IConstruct) -> None:
        self._root = root
        self._stacks: dict[str, StackMetadata] = {}

    def nested(self, outer: Template) -> Iterator[Template]:
        """The stacks nested in ``outer``, which the CDK does not name."""
        metadata = StackMetadata(outer.stack_path, Path(outer.path))
        for path, template in metadata.templates.items():
            self._stacks[path] = metadata
            if path != outer.stack_path:
                yield _template(path, template, outer.environment)

    def acknowledge(self, one: Violation) -> bool:
        """Whether the broken rule's construct or a scope of it does. The CDK itself knows ids with the plugin's name before them alone."""
        stack_path = one.template.stack_path
        metadata = self._stacks[stack_path]
        path = metadata.path_of(stack_path, one.logical_id)
        return path is not None and one.rule.id in {*metadata.acknowledged(path), *self._acknowledged_above(stack_path)}

    def _acknowledged_above(self, stack_path: str) -> Iterator[str]:
        """By the app and its stages."""
        scope: IConstruct | None = self._root
        for name in stack_path.split("/"):
            if scope is None:
                return
            for entry in scope.node.metadata:
                if entry.type == ACKNOWLEDGED:
                    yield from rule_ids(entry.data)
            scope = scope.node.try_find_child(name)
