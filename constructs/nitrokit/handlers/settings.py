"""What a function was deployed with: the enclaves that it watches, their locks, and the keys that it guards.

A fleet's settings hold identifiers that exist after deployment only, and outgrow a function's environment (4 KB: AWS Lambda Developer Guide "Lambda quotas"). So they stand in Systems
Manager parameters below one path, which AttestationMonitor writes and the functions may read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.core.reference_values import ReferenceValues

PATH = "SETTINGS_PATH"


@dataclass(frozen=True)
class Fleet:
    """One enclave on all its hosts. ``targets``: of Systems Manager, InstanceIds or ``tag:…`` → values; ``document_name``: the SSM document that asks it to attest; ``states``: the path below
    which its parents put their state, "" where that is not known.
    """

    enclave: str
    document_name: str
    host_role_arn: str
    targets: Mapping[str, tuple[str, ...]]
    reference: ReferenceValues
    states: str = ""

    @classmethod
    def from_object(cls, value: Mapping[str, Any]) -> Fleet:
        """As AttestationMonitor writes it."""
        targets = {one["key"]: tuple(one["values"]) for one in value["targets"]}
        reference = ReferenceValues.parse(json.dumps(value["reference"]))
        return cls(value["name"], value["document"], value["host_role_arn"], targets, reference, value.get("states", ""))


@dataclass(frozen=True)
class GuardedKey:
    """A key, the policy that was synthesised for it, and the aliases that must lead to it."""

    name: str
    arn: str
    policy: Mapping[str, Any]
    aliases: tuple[str, ...] = ()


def name_of(environment: Mapping[str, str]) -> str:
    """The monitor's name, which no other monitor of the account and Region has: the end of its path."""
    return environment[PATH].rpartition("/")[2]


def keys(ssm: Any, environment: Mapping[str, str]) -> list[GuardedKey]:
    """The keys that this function guards. A policy may be larger than a parameter: its statements stand in several, ``keys/<name>/<part>``; the aliases in one of their own."""
    found = parameters(ssm, environment, "keys")
    names = sorted({name.split("/")[0] for name in found})
    return [_key(name, [found[part] for part in sorted(found) if part.split("/")[0] == name]) for name in names]


def _key(name: str, parts: list[dict[str, Any]]) -> GuardedKey:
    statements = [one for part in parts for one in part.get("statements", ())]
    aliases = tuple(one for part in parts for one in part.get("aliases", ()))
    return GuardedKey(name, parts[0]["key"], {"Version": "2012-10-17", "Statement": statements}, aliases)


def parameters(ssm: Any, environment: Mapping[str, str], kind: str) -> dict[str, Any]:
    """The parameters of one kind, by the last part of their names, parsed."""
    path = f"{environment[PATH]}/{kind}/"
    return {one["Name"].removeprefix(path): json.loads(one["Value"]) for one in _pages(ssm, path)}


def _pages(ssm: Any, path: str) -> Iterator[Mapping[str, Any]]:
    more: dict[str, str] = {}
    while True:
        page = ssm.get_parameters_by_path(Path=path.rstrip("/"), Recursive=True, **more)
        yield from page["Parameters"]
        if not page.get("NextToken"):
            return
        more = {"NextToken": page["NextToken"]}


def fleets(ssm: Any, environment: Mapping[str, str]) -> list[Fleet]:
    """The fleets that this function watches, in a fixed order."""
    found = parameters(ssm, environment, "fleets")
    return [Fleet.from_object(found[name]) for name in sorted(found)]
