"""Checking fleets: ask every enclave for a fresh document, verify and appraise it, write the ledger, report what changed.

A run goes through the hosts in the order of their ids, chunk by chunk; its cursor moves on when a chunk is verified, in the ledger and reported. An invocation that has little time left
hands the run on; one that dies leaves it at the cursor, for its own retry or the next trigger. What is done again is counted once: the ledger takes an entry's id once, a finding replaces
itself, totals move with the cursor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from nitrokit.core.attestation import ChainCache, TrustAnchor
from nitrokit.core.ledger import LedgerEntry
from nitrokit.handlers.checked import Checked, check
from nitrokit.handlers.findings import Finding
from nitrokit.handlers.hosts import AT_ONCE, Answer, Hosts
from nitrokit.handlers.run_state import Chunk, RunState, Trigger
from nitrokit.handlers.run_store import Remembered, RunStore
from nitrokit.handlers.settings import Fleet
from nitrokit.handlers.verdict import PASS

CHUNK = AT_ONCE
_CHUNK_TAKES = timedelta(seconds=100)


class Ledger(Protocol):
    """What is needed of nitrokit.handlers.ledger_store.Ledger."""

    def append_all(self, entries: Sequence[LedgerEntry]) -> list[int]: ...


@dataclass(frozen=True)
class Reporting:
    """Where results go. ``publish``: findings of changed verdicts; ``finish``: the whole run, before it is marked as done."""

    publish: Callable[[Sequence[Finding], datetime], None]
    finish: Callable[[RunState], None]
    resource: Callable[[str], str]
    ledger: Ledger | None = None


@dataclass(frozen=True)
class Checker:
    """Runs over ``fleets``. ``lease``: longer than an invocation may last."""

    fleets: Sequence[Fleet]
    hosts: Hosts
    store: RunStore
    reporting: Reporting
    trust_anchor: TrustAnchor
    clock: Callable[[tzinfo], datetime]
    lease: timedelta
    chains: ChainCache

    def handle(self, trigger: Trigger | None, owner: str, time_left: Callable[[], timedelta], new_run_id: str) -> tuple[str, RunState]:
        """Take the run and go on with it while there is time. Returns (status, the state that it was left in)."""

        def taken(state: RunState) -> RunState:
            waiting = state.triggered(trigger) if trigger else state
            return waiting.taken(owner, self.clock(UTC), self.lease, new_run_id)

        state = self.store.update(taken)
        if state.owner != owner:
            return ("busy" if state.owner else "idle"), state
        while state.fleet < len(self.fleets):
            for instance_ids in self._left(state):
                if time_left() < _CHUNK_TAKES:
                    return "continues", self.store.update(lambda now: now.released(owner))
                chunk = self._chunk(self.fleets[state.fleet], instance_ids, state)
                state = self._advance(owner, state, chunk)
            state = self._next_fleet(owner, state)
        self.reporting.finish(state)
        finished = state.run_id or ""
        self.store.update(lambda now: now.finished(owner, finished))
        return "complete", state

    def _advance(self, owner: str, since: RunState, chunk: Chunk) -> RunState:
        return self.store.update(lambda now: now.advanced(owner, since, chunk))

    def _next_fleet(self, owner: str, since: RunState) -> RunState:
        return self.store.update(lambda now: now.next_fleet(owner, since))

    def _left(self, state: RunState) -> Iterator[list[str]]:
        """The chunks behind the cursor."""
        found = [one for one in self.hosts.of(self.fleets[state.fleet]) if one > state.after and state.covers(one)]
        return (found[start : start + CHUNK] for start in range(0, len(found), CHUNK))

    def _chunk(self, fleet: Fleet, instance_ids: list[str], state: RunState) -> Chunk:
        assert state.run_id is not None
        checked = [self._check(fleet, answer) for answer in self.hosts.ask(fleet, instance_ids)]
        if self.reporting.ledger is not None:
            self.reporting.ledger.append_all([one.as_entry(state.run_id, fleet) for one in checked])
        before = self.store.remembered(fleet.enclave, instance_ids)
        changed = []
        for one in checked:
            last = before.get(one.instance_id)
            was = last.before_run(state.run_id) if last else None
            if was != one.outcome:
                changed.append((one, was))
        findings = [one.as_finding(fleet, self.reporting.resource(one.instance_id)) for one, was in changed if was or one.verdict != PASS]
        self.reporting.publish(findings, self.clock(UTC))
        self.store.remember(fleet.enclave, ((one.instance_id, Remembered(one.outcome, state.run_id or "", was)) for one, was in changed))
        failures = [one.as_failure(fleet) for one in checked if one.verdict != PASS]
        return Chunk(fleet.enclave, instance_ids[-1], Counter(one.verdict for one in checked), failures, len(findings))

    def _check(self, fleet: Fleet, answer: Answer) -> Checked:
        return check(fleet, answer, trust_anchor=self.trust_anchor, time=self.clock(UTC), cache=self.chains)
