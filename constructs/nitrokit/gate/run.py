"""The gate itself: every comparison that was asked for, in order of cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nitrokit.core.attestation.roots import TrustAnchor
from nitrokit.gate.locks import LockedImage, compare_locks
from nitrokit.gate.report import Comparison, GateReport, Place
from nitrokit.gate.spool import Spool

DEPLOYED = (Place.KEY, Place.HOST, Place.ENCLAVE)


@dataclass(frozen=True)
class Plan:
    """What to compare. ``rebuild``: how to build, or None; ``templates``: a cloud assembly's folder; ``stacks``: names of deployed stacks; ``keys``: ARNs, ids or aliases beside those of stacks;
    ``places``: of deployed stacks, what to look at; ``client``: a service's name → a boto3 client; ``trust_anchor``: the root of enclaves' documents; ``clock``: the time now.
    """

    images: Sequence[LockedImage]
    rebuild: Callable[[LockedImage], Comparison] | None = None
    templates: Path | None = None
    stacks: Sequence[str] = ()
    keys: Sequence[str] = ()
    places: Sequence[Place] = DEPLOYED
    client: Callable[[str], Any] = field(repr=False, kw_only=True)
    trust_anchor: TrustAnchor = field(kw_only=True)
    clock: Callable[[], datetime] = field(repr=False, kw_only=True)


def run_gate(plan: Plan) -> GateReport:
    """Compare. Whatever cannot be reached is an answer, never an exception and never a pass."""
    time = plan.clock()
    locks = {image.name: json.loads(image.values.to_json()) for image in plan.images}
    return GateReport(time, locks, Spool(_at_a_file(one, plan.images) for one in _compare(plan, time)))


def _at_a_file(one: Comparison, images: Sequence[LockedImage]) -> Comparison:
    """With the file that a reader should look at: of keys and enclaves it is the lock that they are compared with. GitHub refuses a whole SARIF file for one result without a file."""
    if one.path or not images:
        return one
    return replace(one, path=next((image.path for image in images if image.name == one.image), images[0].path))


def _compare(plan: Plan, time: datetime) -> Iterator[Comparison]:
    yield from compare_locks(plan.images, time)
    if plan.templates is not None:
        from nitrokit.gate.templates import compare_templates

        yield from compare_templates(plan.templates, plan.images, time)
    if plan.stacks or plan.keys:
        from nitrokit.gate.deployed import compare_deployed

        yield from compare_deployed(plan, time)
    if plan.rebuild is not None:
        yield from map(plan.rebuild, plan.images)
