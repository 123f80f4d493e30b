"""(2) The synthesised templates: do every key policy, host configuration and Lambda accept what the locks accept, and nothing else?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nitrokit.core.intrinsics import Environment, concrete
from nitrokit.core.key_policy import PolicyError
from nitrokit.core.key_policy.templated import promises_attestation, templated_policies
from nitrokit.gate.consumers import compare_accepted
from nitrokit.gate.key_policies import KeyPolicy, compare_key_policy
from nitrokit.gate.locks import LockedImage, Pcrs
from nitrokit.gate.report import Comparison, Place

_PCR, _VALUE = re.compile(r"PCR([0-9]+)"), re.compile(r"(?:0[xX])?([0-9a-fA-F]{96})")
_ENVIRONMENT = Environment()
_KEYS = ("AWS::KMS::Key", "AWS::KMS::ReplicaKey")
UNSEALED = ("policy-change",)
"""What a template may say knowingly: EnclaveKey lets nobody but a named administrator change a policy."""


@dataclass(frozen=True)
class Template:
    """One synthesised template."""

    path: Path
    body: Mapping[str, Any]

    def resources(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """(logical id, type, resource)."""
        resources = self.body.get("Resources")
        for logical, resource in (resources if isinstance(resources, dict) else {}).items():
            if isinstance(resource, dict):
                yield logical, str(resource.get("Type")), resource


def read_templates(folder: Path) -> list[Template]:
    """All templates of a cloud assembly, nested assemblies included. Raises OSError, ValueError."""
    found = [Template(path, json.loads(path.read_text())) for path in sorted(folder.rglob("*.template.json"))]
    return [one for one in found if isinstance(one.body, dict)]


def compare_templates(folder: Path, images: Sequence[LockedImage], time: datetime) -> Iterator[Comparison]:
    """Everything in the templates that names measurements. An image that nothing names is drift: what was to be deployed is not in there."""
    try:
        templates = read_templates(folder)
    except (OSError, ValueError, RecursionError) as error:
        yield Comparison(Place.TEMPLATE, str(folder), "unreachable", f"the templates cannot be read: {error}")
        return
    if not templates:
        yield Comparison(Place.TEMPLATE, str(folder), "unreachable", "no template here: run `cdk synth` first")
        return
    found = [one for template in templates for one in _compare(template, images, time)]
    yield from found
    named = {name for one in found if one.image for name in one.image.split(", ")}
    for image in images:
        if image.name not in named and not any(one.rule_id == "unknown-set" for one in found):
            yield Comparison(Place.TEMPLATE, str(folder), "absent", f"no key, host or function here accepts {image.name}", image.name)


def _compare(template: Template, images: Sequence[LockedImage], time: datetime) -> Iterator[Comparison]:
    for logical, kind, resource in template.resources():
        subject = f"{template.path.name.removesuffix('.template.json')}: {_name(logical, resource)} ({kind})"
        path = str(template.path)
        if kind in _KEYS and promises_attestation(resource):
            yield from _compare_key((resource.get("Properties") or {}).get("KeyPolicy"), subject, path, images, time)
            continue
        for name, sets in _groups(concrete(resource.get("Properties"), _ENVIRONMENT)).items():
            own = [image for image in images if image.name == name] or images
            yield compare_accepted(Place.TEMPLATE, subject, sets, own, time, path=path)


def _name(logical: str, resource: Mapping[str, Any]) -> str:
    metadata = resource.get("Metadata")
    return str(metadata.get("aws:cdk:path", logical)) if isinstance(metadata, dict) else logical


def _compare_key(policy: Any, subject: str, path: str, images: Sequence[LockedImage], time: datetime) -> Iterator[Comparison]:
    """A policy that speaks of attestation, as each outcome of the template's conditions makes it."""
    try:
        found = templated_policies(policy, _ENVIRONMENT)
    except PolicyError as error:
        yield Comparison(Place.TEMPLATE, subject, "policy-form", str(error), path=path)
        return
    for one in found:
        told = f"{subject}, where {one.when}" if one.when else subject
        key = KeyPolicy(Place.TEMPLATE, told, one.policy, _ENVIRONMENT.account, path=path, tolerated=UNSEALED)
        yield from compare_key_policy(key, images, time)


def _groups(value: Any) -> dict[str | None, list[Pcrs]]:
    """The sets of measurements anywhere in a resource, JSON within strings included, by the enclave's name where one stands beside them."""
    found: dict[str | None, list[Pcrs]] = {}
    for name, pcrs in sets_in(value):
        found.setdefault(name, []).append(pcrs)
    return found


def sets_in(value: Any, name: str | None = None) -> Iterator[tuple[str | None, Pcrs]]:
    """(enclave's name or None, set): everything in a value that has the form of measurements."""
    if isinstance(value, str) and "PCR0" in value:
        try:
            yield from sets_in(json.loads(value), name)
        except (ValueError, RecursionError):
            return  # a text that speaks of PCR0, but no JSON
    elif isinstance(value, list):
        for one in value:
            yield from sets_in(one, name)
    elif isinstance(value, dict):
        if pcrs := pcrs_of(value):
            yield name, pcrs
            return
        own = value.get("name")
        for one in value.values():
            yield from sets_in(one, own if isinstance(own, str) else name)


def pcrs_of(value: Mapping[str, Any]) -> Pcrs:
    """The set that a mapping of PCR names to hex is; empty where it is none."""
    pairs = [(_PCR.fullmatch(str(key)), _VALUE.fullmatch(one) if isinstance(one, str) else None) for key, one in value.items()]
    found = {int(key[1]): bytes.fromhex(one[1]) for key, one in pairs if key and one}
    return found if 0 in found else {}
