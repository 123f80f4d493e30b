"""An AWS service that is to encrypt with a key which opens for attested enclaves alone: it could neither write nor read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nitrokit.cdk.validation.keys import attested_keys
from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.cdk.validation.references import References
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/service-encryption",
    Severity.HIGH,
    "the service would call GenerateDataKey and Decrypt for its caller without an attestation document, which the key denies",
    "encrypt the resource with another key; encrypt the data itself, as a data owner, before it is stored",
)
RULES = (RULE,)
_KEY_PROPERTY = re.compile(r"(?i)(kms|encryption|sse).*(key|kms).*|kmskey.*|.*kms(master)?key(id|arn)?")
_KEY_OF_ENCRYPTION = re.compile(r"(?i).*encrypt.*\.key(id|arn)")
_CARRIERS = ("AWS::KMS::Alias", "AWS::KMS::ReplicaKey", "AWS::CloudFormation::Stack")
"""What only hands the key's name on."""


def check(app: App) -> Iterator[Violation]:
    """Properties that name an attested key as the key of a resource's encryption."""
    for key in attested_keys(app):
        references = References(app, key.template, key.logical_id)
        for template in app.templates:
            for logical_id, resource in template.resources.items():
                if isinstance(resource, dict) and resource.get("Type") not in _CARRIERS:
                    for path in (
                        path for path, value in _keys(resource.get("Properties"), "Properties") if references.found_in(value, template)
                    ):
                        yield RULE.at(template, logical_id, detail=f"key {key.logical_id}", location=path)


def _keys(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of properties that are called like a key to encrypt with. Environment variables and tags only carry a name."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _keys(one, f"{path}.{number}")
    elif isinstance(value, Mapping):
        for name, one in value.items():
            below = f"{path}.{name}"
            if (_KEY_PROPERTY.fullmatch(name) or _KEY_OF_ENCRYPTION.fullmatch(below)) and _is_name(one):
                yield below, one
            elif name not in ("Variables", "Tags"):
                yield from _keys(one, below)


def _is_name(value: Any) -> bool:
    """Whether this is one text, not a structure of further properties."""
    return isinstance(value, str) or (isinstance(value, Mapping) and all(name == "Ref" or name.startswith("Fn::") for name in value))
