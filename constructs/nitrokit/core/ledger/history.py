"""Which code ran where, and when: what the ledger's documents prove, and no more.

A document proves that the enclave of its module id had its PCRs at its timestamp; AWS's hypervisor signed that, not the ledger's writer. A module id names one enclave from its launch to
its end (Nitro Enclaves User Guide, "Nitro CLI reference": EnclaveID), and PCR0, PCR1, PCR2 and PCR8 are measured at launch and locked (aws-nitro-enclaves-nsm-api, PCRs 0 to 15): two
documents of one enclave prove that it ran, with these PCRs, all the time between them. Between documents of different enclaves nothing is proven: one may have ended, any other have run.
That an enclave is the one *called* so, and that a host is the one named where it is no instance id, is the writer's word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nitrokit.core.attestation import ArchivedDocument, ChainCache, TrustAnchor, verify_archived_document
from nitrokit.core.attestation.policy import IMAGE_PCRS
from nitrokit.core.ledger.entry import LedgerEntry, LedgerRecord
from nitrokit.core.ledger.errors import LedgerError
from nitrokit.errors import NitrokitError

WINDOW = timedelta(minutes=10)
"""How far a document's timestamp may lie from its entry's time: one from further away was not made for this check."""
PROVEN, PARTLY, NOT_PROVEN = "PROVEN", "PARTLY", "NOT PROVEN"
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
_Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Sighting:
    """An entry, and the document that proves it; or, without one, why nothing is proven."""

    sequence: int
    entry: LedgerEntry
    document: ArchivedDocument | None = None
    refusal: NitrokitError | None = None

    @property
    def time(self) -> datetime:
        """The hypervisor's, where there is a document; else the writer's."""
        return self.document.timestamp if self.document else self.entry.time


@dataclass(frozen=True)
class Run:
    """One enclave, from the first to the last document of it: all that time it ran, with these PCRs (those that tell the image)."""

    module_id: str
    pcrs: Mapping[int, bytes]
    sightings: tuple[Sighting, ...]

    @property
    def first(self) -> datetime:
        return self.sightings[0].time

    @property
    def last(self) -> datetime:
        return self.sightings[-1].time

    @property
    def is_debug(self) -> bool:
        """In debug mode the PCRs that tell the image are zero: what ran is not known."""
        document = self.sightings[0].document
        return document is not None and document.is_debug


@dataclass(frozen=True)
class Answer:
    """What is proven about one host from ``start`` to ``end``: the runs that touch this time or stand next to it, and the entries meanwhile that prove nothing."""

    host: str
    start: datetime
    end: datetime
    runs: tuple[Run, ...]
    unproven: tuple[Sighting, ...]

    @property
    def gaps(self) -> list[_Span]:
        """The parts of the time asked about for which nothing is proven."""
        found, at = [], self.start
        for run in self._touching:
            if run.first > at:
                found.append((at, run.first))
            at = max(at, run.last)
        return [*found, (at, self.end)] if at < self.end or not self._touching else found

    @property
    def verdict(self) -> str:
        """PROVEN: at every moment asked about, it is proven which code ran. PARTLY: at some."""
        if not self._touching:
            return NOT_PROVEN
        return PARTLY if self.gaps else PROVEN

    @property
    def _touching(self) -> list[Run]:
        found = [run for run in self.runs if not run.is_debug and run.first <= self.end and run.last >= self.start]
        return sorted(found, key=lambda run: run.first)


def sight(record: LedgerRecord, *, trust_anchor: TrustAnchor, chain_cache: ChainCache | None = None) -> Sighting:
    """What a record proves, years later, with the trust anchor alone."""
    try:
        document = verify_evidence(record.entry, trust_anchor=trust_anchor, chain_cache=chain_cache)
    except NitrokitError as error:
        return Sighting(record.sequence, record.entry, refusal=error)
    return Sighting(record.sequence, record.entry, document)


def verify_evidence(entry: LedgerEntry, *, trust_anchor: TrustAnchor, chain_cache: ChainCache | None = None) -> ArchivedDocument:
    """The document of an entry, authentic at its own time and made for this check. Raises LedgerError, DocumentError, VerificationError.

    1. The entry has its document. 2. It is authentic at its own time (``verify_archived_document``). 3. The entry's module id and PCRs are the document's. 4. Its nonce is the one that was
    asked with. 5. Its timestamp is within ten minutes of the entry's time. 6. Where the host is an instance id, the document is of an enclave on that instance.
    """
    if entry.document is None:
        raise _no_proof("no document was kept", entry.reason or "nothing", "the raw document")
    document = verify_archived_document(entry.document, trust_anchor=trust_anchor, chain_cache=chain_cache)
    if entry.module_id not in (None, document.module_id):
        raise _no_proof("the entry names another enclave than its document", entry.module_id, document.module_id)
    for index, value in entry.pcrs.items():
        if document.pcrs.get(index) != value:
            raise _no_proof(
                f"the entry has another PCR{index} than its document", value.hex(), document.pcrs.get(index, b"").hex() or "none"
            )
    if entry.nonce is not None and document.nonce != entry.nonce:
        raise _no_proof(
            "the document was made for another check: it has another nonce", (document.nonce or b"").hex() or "none", entry.nonce.hex()
        )
    if abs(document.timestamp - entry.time) > WINDOW:
        raise _no_proof("the document was made at another time than the entry", document.timestamp.isoformat(), entry.time.isoformat())
    if _INSTANCE_ID.fullmatch(entry.host) and not document.module_id.startswith(f"{entry.host}-"):
        raise _no_proof("the document is of an enclave on another host", document.module_id, f"{entry.host}-…")
    return document


def answer(host: str, sightings: Sequence[Sighting], start: datetime, end: datetime) -> Answer:
    """What ``sightings`` of one host prove about the time from ``start`` to ``end``; the two may be one moment. Whoever leaves sightings out proves less, never more."""
    ordered = sorted(sightings, key=lambda one: (one.time, one.sequence))
    proven = [one for one in ordered if one.document]
    before = [one for one in proven if one.time < start][-1:]
    after = [one for one in proven if one.time > end][:1]
    chosen = [*before, *(one for one in proven if start <= one.time <= end), *after]
    unproven = [
        one
        for one in ordered
        if not one.document and not (before and one.time < before[0].time) and not (after and one.time > after[0].time)
    ]
    return Answer(host, start, end, tuple(runs(chosen)), tuple(unproven))


def runs(proven: Sequence[Sighting]) -> list[Run]:
    """Sightings with documents, in the order of their times, by the enclave that they are of."""
    groups: dict[tuple[str, tuple[tuple[int, bytes], ...]], list[Sighting]] = {}
    for one in proven:
        assert one.document is not None
        pcrs = tuple((index, one.document.pcrs[index]) for index in IMAGE_PCRS if index in one.document.pcrs)
        groups.setdefault((one.document.module_id, pcrs), []).append(one)
    return [Run(module_id, dict(pcrs), tuple(found)) for (module_id, pcrs), found in groups.items()]


def _no_proof(what: str, got: object, expected: object) -> LedgerError:
    return LedgerError("no-proof", what, got=str(got)[:200], expected=str(expected)[:200])
