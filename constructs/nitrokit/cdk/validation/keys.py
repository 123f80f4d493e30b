"""Keys in a template whose policy speaks of attestation: ours, and anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nitrokit.cdk.validation.model import App, Template
from nitrokit.core.intrinsics import concrete


@dataclass(frozen=True)
class AttestedKey:
    """``policy``: as it will be deployed, as far as that is known."""

    template: Template
    logical_id: str
    properties: Mapping[str, Any]

    @cached_property
    def policy(self) -> Any:
        return concrete(self.properties["KeyPolicy"], self.template.environment)


def attested_keys(app: App) -> Iterator[AttestedKey]:
    """All of them, replicas too."""
    for template in app.templates:
        for logical_id, properties in template.of_type("AWS::KMS::Key", "AWS::KMS::ReplicaKey"):
            if "recipientattestation" in json.dumps(properties.get("KeyPolicy")).lower():
                yield AttestedKey(template, logical_id, properties)
