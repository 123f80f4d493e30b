"""Keys in a template that open for attested enclaves: ours, and anybody's whose policy speaks of attestation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nitrokit.cdk.validation.model import App, Rule, Template, Violation
from nitrokit.core.key_policy.templated import TemplatedPolicy, promises_attestation, templated_policies


@dataclass(frozen=True)
class AttestedKey:
    """A key of a template, with what it is given there."""

    template: Template
    logical_id: str
    properties: Mapping[str, Any]

    @cached_property
    def policies(self) -> tuple[TemplatedPolicy, ...]:
        """As they can be deployed, as far as that is known. Raises PolicyError where there are too many."""
        return templated_policies(self.properties.get("KeyPolicy"), self.template.environment)

    def broken(self, rule: Rule, detail: str, *, when: str = "") -> Violation:
        """A rule that its policy breaks; ``when``: under which conditions."""
        told = [detail, f"where {when}" if when else ""]
        return rule.at(self.template, self.logical_id, detail="; ".join(filter(None, told)), location="Properties.KeyPolicy")


def attested_keys(app: App) -> Iterator[AttestedKey]:
    """All of them, replicas too."""
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::KMS::Key", "AWS::KMS::ReplicaKey"):
            if promises_attestation(template.resources[logical_id]):
                yield AttestedKey(template, logical_id, properties)
