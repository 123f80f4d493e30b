"""What the CDK writes of constructs beside a stack's template: logical ids, acknowledged rules, nested stacks' templates (Cloud Assembly Schema, MetadataEntry).

It is read from the file: the same asked of the constructs is a call to the CDK's process for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nitrokit.errors import UsageError

_LOGICAL_ID, _TEMPLATE, ACKNOWLEDGED = "aws:cdk:logicalId", "aws:cdk:templateFile", "aws:cdk:acknowledged-rules"


class StackMetadata:
    """Of the stack at the construct path ``stack_path``, whose template is ``template``, and of those nested in it. Raises UsageError for an assembly without it."""

    def __init__(self, stack_path: str, template: Path) -> None:
        self._entries = {path.removeprefix("/"): entries for path, entries in _read(template).items()}
        self.templates = {path: template.with_name(str(name)) for path, name in self._all(_TEMPLATE)}
        """Construct path of each of these stacks → its template."""
        if stack_path not in self.templates:
            raise UsageError(
                "assembly",
                "the CDK tells nothing of a stack's constructs",
                got=f"no {_TEMPLATE} for {stack_path} beside {template}",
                expected="a cloud assembly of aws-cdk-lib 2.275 or newer",
                do="update aws-cdk-lib; let no synthesizer of your own leave the metadata out",
            )

    def path_of(self, stack_path: str, logical_id: str) -> str | None:
        """The construct of this logical id: stacks nested in one another may have the same ones."""
        named = [path for path, data in self._all(_LOGICAL_ID) if data == logical_id]
        return next((path for path in named if max((one for one in self.templates if _is_below(path, one)), key=len) == stack_path), None)

    def acknowledged(self, path: str) -> Iterator[str]:
        """The rules that the construct and its scopes up to the stack acknowledge."""
        for scope, ids in self._all(ACKNOWLEDGED):
            if _is_below(path, scope):
                yield from rule_ids(ids)

    def _all(self, kind: str) -> Iterator[tuple[str, Any]]:
        return ((path, one.get("data")) for path, entries in self._entries.items() for one in entries if one["type"] == kind)


def rule_ids(acknowledged: Any) -> Iterator[str]:
    """Ids as rules know them: the CDK puts the plugin's name before one where it knows it."""
    return (id.rpartition("::")[2] for id in acknowledged)


def _is_below(path: str, scope: str) -> bool:
    return f"{path}/".startswith(f"{scope}/")


def _read(template: Path) -> dict[str, Any]:
    artifacts = json.loads(template.with_name("manifest.json").read_text())["artifacts"].values()
    stack: dict[str, Any] = next((one for one in artifacts if (one.get("properties") or {}).get("templateFile") == template.name), {})
    beside = stack.get("additionalMetadataFile")
    return {**(stack.get("metadata") or {}), **(json.loads(template.with_name(beside).read_text()) if beside else {})}
