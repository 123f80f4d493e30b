"""``nitrokit ledger at``: what is proven about a day or a moment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from nitrokit.cli.ledger_source import OpenedLedger
from nitrokit.core.attestation import ChainCache, TrustAnchor
from nitrokit.core.ledger import (
    Answer,
    LedgerError,
    UnverifiedCheckpoint,
    answer,
    consistency_proof,
    sight,
    verify_consistency,
    walk,
)
from nitrokit.core.ledger.history import NOT_PROVEN
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.handlers.ledger_index import EnclaveIndex


_DAY = re.compile(r"[^T: ]{1,10}")


@dataclass(frozen=True)
class Found:
    """The answers for an enclave's hosts. ``signed``: the ledger's last checkpoint. ``complete``: the ledger was read whole; else an index pointed to the records, and may have hidden some."""

    enclave: str
    start: datetime
    end: datetime
    answers: list[Answer]
    signed: UnverifiedCheckpoint | None
    complete: bool

    @property
    def proven(self) -> bool:
        return any(one.verdict != NOT_PROVEN for one in self.answers)


def parse_time(text: str) -> tuple[datetime, datetime]:
    """From when to when: a whole day, or one moment. Raises UsageError."""
    try:
        if _DAY.fullmatch(text):
            start = datetime.combine(date.fromisoformat(text), time(), UTC)
            return start, start + timedelta(days=1)
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            "bad-time", "not a day or a time", got=text[:80], expected="2026-06-07, or 2026-06-07T12:00:00Z", do="write it so"
        ) from error
    return moment, moment


def ask(opened: OpenedLedger, enclave: str, host: str | None, start: datetime, end: datetime, anchor: TrustAnchor) -> Found:
    """What the ledger proves. Every record is proven to be in it, and its document verified at its own time. Raises LedgerError for an enclave that it does not know."""
    from nitrokit.handlers.ledger_index import sightings

    index, signed = _index(opened, enclave)
    cache = ChainCache()
    known = list(index.hosts())
    hosts = [one for one in known if host in (None, one)]
    if not hosts:
        raise LedgerError(
            "unknown-enclave",
            "the ledger knows no such enclave",
            got=f"{enclave} on {host or 'any host'}",
            expected=f"{', '.join(known)[:300]} for its host" if known else None,
            do="check the name, which is the image's, and --host",
        )
    answers = [
        answer(one, sightings(index, one, start, end, lambda record: sight(record, trust_anchor=anchor, chain_cache=cache)), start, end)
        for one in hosts
    ]
    return Found(enclave, start, end, answers, signed, complete=opened.table is None)


def _index(opened: OpenedLedger, enclave: str) -> tuple[EnclaveIndex, UnverifiedCheckpoint | None]:
    """An export is read whole; a table is asked by its index, for records that its head proves, and its head continues the last checkpoint."""
    from nitrokit.handlers.ledger_index import TableIndex, WalkedIndex

    signed = opened.trust.check(opened.notes[-1]) if opened.notes else None
    if opened.table is None:
        checkpoints = [opened.trust.check(note) for note in opened.notes]
        return WalkedIndex(opened.log, walk(opened.log, opened.size, checkpoints), enclave), signed
    ledger, head = opened.table
    if signed is not None:
        proof = consistency_proof(signed.size, opened.size, ledger.nodes)
        verify_consistency(signed.size, signed.root, opened.size, head.frontier.root(), proof)
    return TableIndex(ledger, head.frontier, enclave), signed
