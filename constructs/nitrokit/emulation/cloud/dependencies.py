"""In which order a stack's resources come, change and go; moto goes by the template's, or by none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nitrokit.emulation.cloud.custom_resources import is_custom


def ordered_diff(original: Callable[..., Any]) -> Callable[..., Any]:
    """What is added or changed comes in dependency order (DependsOn, not only references), what goes in the opposite one. With a custom resource changes what refers to it."""

    def build_resource_diff(resource_map: Any, other_template: dict[str, Any], parameters: dict[str, Any] | None = None) -> Any:
        names, resources = original(resource_map, other_template, parameters), other_template["Resources"]
        order, changed = dependency_order(resources), _changed(resources, names["Modify"])
        names["Add"] = [name for name in order if name in names["Add"]]
        names["Modify"] = [name for name in order if name in changed and name not in names["Add"]]
        names["Remove"] = [name for name in reversed(dependency_order(resource_map._resource_json_map)) if name in names["Remove"]]
        return names

    return build_resource_diff


def _changed(resources: Mapping[str, Any], modified: list[str]) -> set[str]:
    changed = set(modified)
    for name in dependency_order(resources):
        if any(is_custom(resources[other]["Type"]) for other in _references(resources[name].get("Properties")) & changed & set(resources)):
            changed.add(name)
    return changed


def custom_resources_first(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Custom resources go before the rest of a stack, which moto deletes in no order: their functions must still be there."""

    def delete(resource_map: Any) -> None:
        templates, resources = resource_map._resource_json_map, resource_map._parsed_resources
        for name in reversed(dependency_order(templates)):
            if is_custom(templates[name]["Type"]) and not _is_retained(templates[name]) and resources.get(name):
                resource_map._delete_resource(resources[name], templates[name])
                del resources[name]
        original(resource_map)

    return delete


def unless_retained(original: Callable[..., None]) -> Callable[..., None]:
    """What has the DeletionPolicy Retain, or RetainExceptOnCreate, stays when it leaves its stack, or the stack goes (CloudFormation User Guide "DeletionPolicy attribute")."""

    def delete_resource(resource_map: Any, parsed_resource: Any, resource_json: Mapping[str, Any]) -> None:
        if not _is_retained(resource_json):
            original(resource_map, parsed_resource, resource_json)

    return delete_resource


def _is_retained(template: Mapping[str, Any]) -> bool:
    return template.get("DeletionPolicy") in ("Retain", "RetainExceptOnCreate")


def dependency_order(resources: Mapping[str, Any]) -> list[str]:
    """Logical ids, each after those it refers to or depends on."""
    order: list[str] = []
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in order or name in visiting:
            return
        visiting.add(name)
        for other in sorted(_references(resources[name])):
            if other in resources:
                visit(other)
        order.append(name)

    for name in resources:
        visit(name)
    return order


def _references(value: Any) -> set[str]:
    found: set[str] = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Ref" and isinstance(inner, str):
                found.add(inner)
            elif key == "Fn::GetAtt":
                found.add(inner[0] if isinstance(inner, list) else str(inner).split(".")[0])
            elif key == "DependsOn":
                found |= {inner} if isinstance(inner, str) else set(inner)
            else:
                found |= _references(inner)
    elif isinstance(value, list):
        for inner in value:
            found |= _references(inner)
    return found
