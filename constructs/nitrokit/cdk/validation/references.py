"""By which names an app's templates know one resource: its logical id, exports, and nested stacks' parameters and outputs. Source: CloudFormation User Guide "Intrinsic function reference"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nitrokit.cdk.validation.model import App, Template

_VARIABLE = re.compile(r"\$\{([^!}][^}]*)\}")
_OUTPUTS = "Outputs."


class References:
    """Where a resource is meant. A logical id alone does not tell: stacks of one shape have the same ones."""

    def __init__(self, app: App, template: Template, logical_id: str) -> None:
        self._names = {one.stack_path: set[str]() for one in app.templates}
        self._names[template.stack_path].add(logical_id)
        self._exports = set[str]()
        size = 0
        while size != (size := self._size()):
            for one in app.templates:
                self._follow_outputs(one)
                self._follow_parameters(one)

    def found_in(self, value: Any, template: Template) -> bool:
        """Whether a value of this template names the resource."""
        return any(name in self._names[template.stack_path] or name in self._exports for name in _mentioned(value))

    def _size(self) -> int:
        return len(self._exports) + sum(map(len, self._names.values()))

    def _follow_outputs(self, template: Template) -> None:
        for name, output in template.outputs.items():
            if isinstance(output, Mapping) and self.found_in(output.get("Value"), template):
                self._exports |= {_export(one) for one in [(output.get("Export") or {}).get("Name")] if one is not None}
                parent = template.stack_path.rpartition("/")[0]
                self._names.get(parent, set()).add(f"{_OUTPUTS}{name}")

    def _follow_parameters(self, template: Template) -> None:
        for _, stack in template.of_type("AWS::CloudFormation::Stack"):
            given = {name for name, value in (stack.get("Parameters") or {}).items() if self.found_in(value, template)}
            for path, names in self._names.items():
                if path.rpartition("/")[0] == template.stack_path:
                    names |= given


def _export(name: Any) -> str:
    return f"export {json.dumps(name, sort_keys=True)}"


def _mentioned(value: Any) -> Iterator[str]:
    """All names in a value."""
    if isinstance(value, list):
        for one in value:
            yield from _mentioned(one)
    elif isinstance(value, Mapping):
        for function, argument in value.items():
            yield from _named(function, argument)
            yield from _mentioned(argument)


def _named(function: str, argument: Any) -> Iterator[str]:
    match function, argument:
        case "Ref", str():
            yield argument
        case "Fn::GetAtt", [str() as resource, str() as attribute]:
            yield from _attribute(f"{resource}.{attribute}")
        case "Fn::GetAtt", str():
            yield from _attribute(argument)
        case "Fn::Sub", str() | [str(), *_]:
            for name in _VARIABLE.findall(argument if isinstance(argument, str) else argument[0]):
                yield from _attribute(name)
        case "Fn::ImportValue", _:
            yield _export(argument)


def _attribute(name: str) -> Iterator[str]:
    """A resource by one of its attributes; a nested stack's attributes are the resources behind its outputs."""
    resource, _, attribute = name.partition(".")
    yield attribute if attribute.startswith(_OUTPUTS) else resource
