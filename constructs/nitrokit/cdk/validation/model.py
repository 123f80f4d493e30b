"""What a rule is, and what it looks at: templates as they are deployed, and the time. Pure: no clock, no files, no construct tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nitrokit.core.intrinsics import Environment, resolve
from nitrokit.core.key_policy import Severity


@dataclass(frozen=True)
class Template:
    """One stack's template. ``stack_path``: the stack's construct path; ``path``: the file; ``environment``: where it is deployed to, as far as that is known.

    ``outputs``: the section of this name.
    """

    stack_path: str
    path: str
    resources: Mapping[str, Any]
    environment: Environment
    outputs: Mapping[str, Any] = field(default_factory=dict)

    def of_type(self, *types: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(logical id, properties) of the resources of these types."""
        for logical_id, resource in self.resources.items():
            if isinstance(resource, dict) and resource.get("Type") in types:
                yield logical_id, resource.get("Properties") or {}

    def possible(self, value: Any) -> Any:
        """The value with parameters and all branches of Fn::If, side by side, in place of functions."""
        return resolve(value, self.environment.pseudo, every_branch=True)


@dataclass(frozen=True)
class App:
    """All templates of an app. ``time``: aware; ``default_rules``: whether CloudFormation's own findings fail the synthesis."""

    templates: tuple[Template, ...]
    time: datetime
    default_rules: bool = True


@dataclass(frozen=True)
class Rule:
    """``id`` is API: people acknowledge it. ``what``: what is wrong; ``fix``: what to do."""

    id: str
    severity: Severity
    what: str
    fix: str

    def at(self, template: Template, logical_id: str, *, detail: str | None = None, location: str = "Properties") -> Violation:
        """This rule, broken here."""
        return Violation(self, template, logical_id, detail, location)


@dataclass(frozen=True)
class Violation:
    """A rule broken by a resource. ``location``: the property's path below the resource."""

    rule: Rule
    template: Template
    logical_id: str
    detail: str | None
    location: str

    @property
    def description(self) -> str:
        return self.rule.what + (f" ({self.detail})" if self.detail else "")


def defaults(parameters: Any) -> dict[str, str]:
    """Of the plain ones: the default of another type names something, or is a list."""
    plain = {name: one for name, one in (parameters or {}).items() if isinstance(one, Mapping) and one.get("Type") in ("String", "Number")}
    return {name: str(one["Default"]) for name, one in plain.items() if "Default" in one}


def texts(value: Any) -> str:
    """All strings in a value, joined: scripts stand in templates in pieces."""
    if isinstance(value, str):
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return "".join(map(texts, parts))


def as_list(value: Any) -> list[Any]:
    """A value that may stand alone or in a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
