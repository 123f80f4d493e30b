"""Which enclaves a stack runs, on which instances, and by which documents they and their hosts are asked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.gate.stack import Stack

_ENCLAVE = re.compile(r"--enclave ['\"]?([a-z][a-z0-9-]{0,31})")


@dataclass(frozen=True)
class Enclave:
    """One enclave on all its hosts. ``targets``: of Systems Manager; ``attest``, ``status``: names of the SSM documents that ask it and its host; None where the stack has none."""

    name: str
    targets: Mapping[str, tuple[str, ...]]
    role_arn: str | None
    attest: str | None
    status: str | None


def enclaves_of(stack: Stack) -> list[Enclave]:
    """The enclaves that the stack's associations bring up."""
    documents = {physical: _about(properties) for _, physical, properties in stack.resources("AWS::SSM::Document")}
    found: dict[str, dict[str, set[str]]] = {}
    for _, _, association in stack.resources("AWS::SSM::Association"):
        name = documents.get(str(association.get("Name")), (None, None))[1]
        if name is not None:
            targets = found.setdefault(name, {})
            for one in association.get("Targets", []):
                targets.setdefault(str(one["Key"]), set()).update(map(str, one["Values"]))
    by_use = {(use, name): physical for physical, (use, name) in documents.items()}
    role = _role(stack)
    return [
        Enclave(
            name,
            {key: tuple(sorted(values)) for key, values in targets.items()},
            role,
            by_use.get(("attest", name)),
            by_use.get(("status", name)),
        )
        for name, targets in sorted(found.items())
    ]


def _about(properties: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(the first step's name, the enclave's name) of a document; None where it is none of ours. The enclave stands in the script, or is a parameter's default."""
    content = _parsed(properties.get("Content"))
    steps = content.get("mainSteps") or [{}]
    found = _ENCLAVE.search(json.dumps(steps).replace("\\", ""))
    default = content.get("parameters", {}).get("Enclave", {}).get("default")
    name = found[1] if found else default if isinstance(default, str) else None
    return (str(steps[0].get("name")), name) if name else (None, None)


def _parsed(content: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        return {}  # YAML: none of ours
    return value if isinstance(value, dict) else {}


def _role(stack: Stack) -> str | None:
    """The role of the stack's instances, where all have one; else PCR3 is not compared (PCR4 tells the instance all the same)."""
    names = {str(role) for _, _, profile in stack.resources("AWS::IAM::InstanceProfile") for role in profile.get("Roles", [])}
    arns = {stack.names(f"{logical}.Arn") for logical, physical, _ in stack.resources("AWS::IAM::Role") if physical in names}
    return arns.pop() if len(arns) == 1 == len(names) else None
