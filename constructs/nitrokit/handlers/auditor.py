"""Who opened data with which image: KMS events joined with the locks and with the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from nitrokit.core.ledger import LedgerRecord
from nitrokit.core.measurements import Measurements
from nitrokit.errors import UsageError
from nitrokit.handlers.findings import Finding
from nitrokit.handlers.key_use import KeyUse
from nitrokit.handlers.settings import Fleet

DENIED, UNATTESTED, DEBUG, UNKNOWN, ATTESTED = "denied", "unattested", "debug", "unknown-image", "attested"
_TITLES = {
    UNATTESTED: "Data was opened without an attestation document",
    DEBUG: "Data was opened for a debug-mode enclave",
    UNKNOWN: "Data was opened for an image that no lock accepts",
}
_MOST_RECORDS = 200
_END = 10**15 - 1


class Records(Protocol):
    """The ledger, asked for one enclave's records on one host."""

    def __call__(self, enclave: str, host: str, first: int, last: int, *, backwards: bool) -> Iterator[LedgerRecord]:
        """Those from ``first`` to ``last`` (milliseconds), in the order of their times, or the newest first."""


class AuditError(UsageError):
    """An audit that was asked for wrongly."""

    area = "audit"


@dataclass(frozen=True)
class Audited:
    """One use of a key: what it was, of which image, and the check in the ledger that vouches for that enclave."""

    use: KeyUse
    kind: str
    enclave: str | None = None
    standing: str | None = None
    record: LedgerRecord | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the function's answer."""
        use, record = self.use, self.record
        return {
            "event_id": use.event_id, "time": use.time.isoformat().replace("+00:00", "Z"), "action": use.action, "principal": use.principal, "source_ip": use.source_ip, "key": use.key,
            "error": use.error, "kind": self.kind, "module_id": use.module_id, "pcrs": {str(index): value.hex() for index, value in sorted(use.pcrs.items())},
            "encryption_context": dict(use.encryption_context), "enclave": self.enclave, "set": self.standing,
            "ledger": None if record is None else {
                "sequence": record.sequence, "time": record.entry.time.isoformat().replace("+00:00", "Z"), "verdict": record.entry.verdict,
            },
        }  # fmt: skip

    def as_finding(self) -> Finding | None:
        """What somebody should look at; None for what is as it should be."""
        if self.kind not in _TITLES:
            return None
        use = self.use
        return Finding(
            kind="audit",
            subject=use.event_id,
            title=_TITLES[self.kind],
            description=f"{use.principal} called {use.action} from {use.source_ip}, enclave {use.module_id or 'none'}.",
            severity="CRITICAL",
            resource=(use.key, "AwsKmsKey"),
            remedy="Invoke guard_key_policy; treat what the key protects as disclosed to this caller.",
            details={"event": use.event_id, "principal": use.principal, "module_id": use.module_id or ""},
        )


@dataclass
class Auditor:
    """``records``: None without a ledger."""

    fleets: Sequence[Fleet]
    records: Records | None = None
    _known: dict[tuple[str, str, datetime], LedgerRecord | None] = field(default_factory=dict)

    def audit(self, use: KeyUse) -> Audited:
        """Judge one use."""
        if use.error is not None:
            return Audited(use, DENIED)
        if not use.attested:
            return Audited(use, UNATTESTED)
        if use.is_debug:
            return Audited(use, DEBUG)
        found = next(((fleet, standing) for fleet in self.fleets if (standing := _standing(fleet, use))), None)
        if found is None:
            return Audited(use, UNKNOWN)
        fleet, standing = found
        return Audited(use, ATTESTED, fleet.enclave, standing, self._record(fleet.enclave, use))

    def _record(self, enclave: str, use: KeyUse) -> LedgerRecord | None:
        """The check of this very enclave that is nearest before the use; else its first after it. What was used in one second is looked for once."""
        if self.records is None or use.instance_id is None or use.module_id is None:
            return None
        key = (enclave, use.module_id, use.time)
        if key not in self._known:
            time = int(use.time.timestamp() * 1000)
            before = self.records(enclave, use.instance_id, 0, time, backwards=True)
            after = self.records(enclave, use.instance_id, time + 1, _END, backwards=False)
            self._known[key] = _first_of(use.module_id, before) or _first_of(use.module_id, after)
        return self._known[key]


def _first_of(module_id: str, records: Iterator[LedgerRecord]) -> LedgerRecord | None:
    """A host may have run others before and after."""
    return next((one for one in islice(records, _MOST_RECORDS) if one.entry.module_id == module_id), None)


def _standing(fleet: Fleet, use: KeyUse) -> str | None:
    """Which set of a fleet's lock a use was of, at its time."""
    if _matches(fleet.reference.current, use.pcrs):
        return "current"
    for one in fleet.reference.retiring:
        if _matches(one.measurements, use.pcrs):
            return "retired" if one.is_past(use.time) else "retiring"
    return None


def _matches(measurements: Measurements, pcrs: Mapping[int, bytes]) -> bool:
    return all(pcrs.get(index) == value for index, value in measurements.pcrs().items())


def kinds(found: Sequence[Audited]) -> dict[str, int]:
    """How many of each kind."""
    return {kind: sum(one.kind == kind for one in found) for kind in (ATTESTED, DENIED, UNATTESTED, DEBUG, UNKNOWN)}


def window(text: object, default: datetime) -> datetime:
    """A time of the event, or the default. Raises AuditError."""
    if text is None:
        return default
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        found = datetime.min
    if found.tzinfo is None:
        raise AuditError("time", "since and until are times with their offset", got=str(text)[:40], expected="e.g. 2026-06-07T00:00:00Z")
    return found
