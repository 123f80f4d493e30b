"""One key policy, synthesised or deployed, against the locks: the sets it accepts, and the ways round its attestation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nitrokit.core.key_policy import Finding, Grant, PolicyError, Severity, analyze_key_policy
from nitrokit.gate.consumers import compare_accepted
from nitrokit.gate.locks import LockedImage
from nitrokit.gate.policies import UnreadablePolicy, accepted_sets
from nitrokit.gate.report import Comparison, Place


@dataclass(frozen=True)
class KeyPolicy:
    """``policy``: resolved. ``tolerated``: findings that are known to be meant (a named administrator who may change the policy);
    ``note``: what was not looked at.
    """

    place: Place
    subject: str
    policy: Mapping[str, Any]
    account: str
    partition: str = "aws"
    grants: Sequence[Grant] = ()
    path: str | None = None
    tolerated: tuple[str, ...] = ()
    note: str = ""


def compare_key_policy(one: KeyPolicy, images: Sequence[LockedImage], time: datetime) -> Iterator[Comparison]:
    """The accepted sets, and each finding of severity high or worse."""
    try:
        accepted = accepted_sets(one.policy)
        findings = analyze_key_policy(one.policy, account=one.account, partition=one.partition, grants=one.grants)
    except (PolicyError, UnreadablePolicy) as error:
        yield Comparison(one.place, one.subject, "policy-form", str(error), path=one.path)
        return
    bad = [found for found in findings if found.severity >= Severity.HIGH and found.id not in one.tolerated]
    yield from (Comparison(one.place, one.subject, "policy-finding", _told(found), path=one.path) for found in bad)
    if accepted:
        found = compare_accepted(one.place, one.subject, accepted, images, time, path=one.path)
        yield replace(found, reason=found.reason + one.note)
    elif not bad:
        yield Comparison(one.place, one.subject, "current-missing", "opens for no image at all", path=one.path)


def _told(found: Finding) -> str:
    whom = f" for {', '.join(found.principals)}" if found.principals else ""
    return f"{found.id} in {found.statement or 'the policy'}: {found.reason}{whom}; {found.fix}"
