"""The state of checking a fleet: one run at a time, resumable at its cursor. Pure: each step gives the state that follows.

A trigger is remembered by its id, so that one that is delivered twice starts nothing twice; what is triggered during a run waits in ``pending`` and runs next. A run belongs to one
invocation until its lease ends; every step of another one is refused, so that an invocation that was thought dead changes nothing. The retry of an invocation that died has its request id
(AWS Lambda Developer Guide, "Asynchronous invocation"), and goes on at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from nitrokit.errors import NitrokitError

EVERYTHING = "*"
MAX_FAILURES = 50
_REMEMBERED, _NAMED = 64, 1000


class RunError(NitrokitError):
    """A run that another invocation has taken over."""

    area = "run"


@dataclass(frozen=True)
class Trigger:
    """Why to check. ``scope``: instance ids, or "*" for all. ``scheduled``: may be left out while all are being checked anyway."""

    id: str
    scope: tuple[str, ...] = (EVERYTHING,)
    scheduled: bool = False


@dataclass(frozen=True)
class Chunk:
    """What came of some hosts of a fleet, up to the instance id ``last``. ``counts``: verdict → how many; ``changed``: how many verdicts are not what they were."""

    enclave: str
    last: str
    counts: Mapping[str, int]
    failures: Sequence[Mapping[str, Any]]
    changed: int


@dataclass(frozen=True)
class RunState:
    """``run_id``: None between runs; ``ended``: the run that ended last, whose results stay until the next one. ``fleet``, ``after``: the cursor: the fleet's number and the last instance id that
    is done. ``totals``: enclave → verdict → count.
    """

    run_id: str | None = None
    scope: tuple[str, ...] = ()
    fleet: int = 0
    after: str = ""
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failures: tuple[Mapping[str, Any], ...] = ()
    changed: int = 0
    owner: str | None = None
    lease_until: str = ""
    pending: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    ended: str | None = None

    @classmethod
    def parse(cls, text: str) -> RunState:
        value = json.loads(text)
        tuples = {name: tuple(value[name]) for name in ("scope", "failures", "pending", "triggers")}
        return cls(**{**value, **tuples})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def triggered(self, trigger: Trigger) -> RunState:
        """With the trigger's scope waiting, if it is new."""
        if trigger.id in self.triggers:
            return self
        covered = trigger.scheduled and self.run_id is not None and EVERYTHING in self.scope
        pending = self.pending if covered else (*self.pending, *(one for one in trigger.scope if one not in self.pending))
        if len(pending) > _NAMED:  # an item of DynamoDB would not hold all their names
            pending = (EVERYTHING,)
        return replace(self, pending=pending, triggers=(*self.triggers, trigger.id)[-_REMEMBERED:])

    def taken(self, owner: str, now: datetime, lease: timedelta, new_run_id: str) -> RunState:
        """Owned by ``owner`` where the run is free or was its own; a new run where there is none and something waits. Unchanged where another one owns it, or nothing is to be done."""
        if self.owner not in (None, owner) and now < datetime.fromisoformat(self.lease_until):
            return self
        if self.run_id is None and not self.pending:
            return self
        owned = replace(self, owner=owner, lease_until=(now + lease).isoformat())
        if self.run_id is not None:
            return owned
        scope = (EVERYTHING,) if EVERYTHING in self.pending else self.pending
        return replace(owned, run_id=new_run_id, scope=scope, fleet=0, after="", totals={}, failures=(), changed=0, pending=())

    def covers(self, instance_id: str) -> bool:
        return EVERYTHING in self.scope or instance_id in self.scope

    def advanced(self, owner: str, since: RunState, chunk: Chunk) -> RunState:
        """A chunk is done that began at the cursor of ``since``. Unchanged where the cursor has moved: the step was written, and only its answer lost. Raises RunError."""
        self._require(owner)
        if (self.run_id, self.fleet, self.after) != (since.run_id, since.fleet, since.after):
            return self
        before = self.totals.get(chunk.enclave, {})
        totals = {
            **self.totals,
            chunk.enclave: {name: before.get(name, 0) + chunk.counts.get(name, 0) for name in {**before, **chunk.counts}},
        }
        kept = (*self.failures, *chunk.failures)[:MAX_FAILURES]
        return replace(self, after=chunk.last, totals=totals, failures=kept, changed=self.changed + chunk.changed)

    def next_fleet(self, owner: str, since: RunState) -> RunState:
        """The fleet at the cursor of ``since`` is done. Raises RunError."""
        self._require(owner)
        return replace(self, fleet=since.fleet + 1, after="") if self.fleet == since.fleet else self

    def released(self, owner: str) -> RunState:
        """Free for whoever goes on."""
        return replace(self, owner=None, lease_until="") if self.owner == owner else self

    def finished(self, owner: str, run_id: str) -> RunState:
        """Between runs again. Raises RunError."""
        if self.run_id != run_id:
            return self
        self._require(owner)
        return replace(self.released(owner), run_id=None, scope=(), ended=run_id)

    def _require(self, owner: str) -> None:
        if self.owner != owner:
            raise RunError(
                "taken-over", "another invocation has taken this run over", got=self.owner, expected=owner, do="nothing: it goes on there"
            )
