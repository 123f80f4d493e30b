"""What the ledger remembers of one check of one enclave, and its bytes.

The bytes are CBOR in the core deterministic encoding of RFC 8949 section 4.2.1: one value has one encoding, and documents, nonces and hashes stand in it as they are, not as text.
The parser refuses any other encoding of the same value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2

from nitrokit.core import cbor
from nitrokit.core.attestation.document import MAX_DOCUMENT, MAX_OPTIONAL, MAX_PCRS, PCR_LENGTHS
from nitrokit.core.ledger.errors import LedgerError
from nitrokit.core.measurements import Measurements

VERSION = 1
PASS, FAIL, UNREACHABLE = "PASS", "FAIL", "UNREACHABLE"
MAX_REASON = 4096
_DIGEST = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TIME = 253_402_300_799_999  # the last millisecond of year 9999
_LABEL = re.compile(r"[!-~]{1,128}")
_LABELS, _OPTIONAL_LABELS = ("entry_id", "enclave", "host", "source"), ("module_id", "image")


@dataclass(frozen=True)
class LedgerEntry:
    """One check of one enclave. Raises LedgerError for a value that an entry cannot hold.

    ``entry_id``: names the check; a second entry of the same id is the same entry, however often a job runs. ``time``: the writer's clock (aware; kept in milliseconds).
    ``enclave``, ``host``, ``source``: the writer's names for the enclave, its parent instance, and the writer itself. ``verdict``: PASS, FAIL or UNREACHABLE; ``reason`` says why where
    it is not PASS: a lying host may have its words in it, so what is longer than 4096 bytes is cut off, and what is no text replaced. ``module_id``, ``pcrs`` (index → value): as in the
    document. ``nonce``: what was asked with. ``document``: the raw bytes that came, whatever they are; where they are longer than any document may be, its SHA-256 alone.
    ``policy_sha256``: what it was appraised against (``reference_sets_digest``). ``image``: what the writer calls the image that matched, e.g. its version.
    Labels are 1 to 128 printable ASCII characters without spaces.
    """

    entry_id: str
    time: datetime
    enclave: str
    host: str
    source: str
    verdict: str
    reason: str | None = None
    module_id: str | None = None
    pcrs: Mapping[int, bytes] = field(default_factory=dict)
    nonce: bytes | None = None
    document: bytes | None = None
    document_sha256: bytes | None = None
    policy_sha256: bytes | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        _check_labels(self)
        _check_bytes(self)
        if self.reason is not None:
            object.__setattr__(self, "reason", _fit(self.reason))
        if self.time.tzinfo is None or not 0 <= _milliseconds(self.time) <= _MAX_TIME:
            raise _field("time", self.time.isoformat(), "an aware time since 1970")
        object.__setattr__(self, "time", _EPOCH + timedelta(milliseconds=_milliseconds(self.time)))
        object.__setattr__(self, "pcrs", dict(sorted(self.pcrs.items())))
        if self.document is not None:
            digest = hashlib.sha256(self.document).digest()
            if self.document_sha256 not in (None, digest):
                raise _field("document_sha256", self.document_sha256, "the SHA-256 of the document")
            object.__setattr__(self, "document_sha256", digest)
            if len(self.document) > MAX_DOCUMENT:
                object.__setattr__(self, "document", None)

    @property
    def milliseconds(self) -> int:
        """The time in milliseconds since 1970."""
        return _milliseconds(self.time)


@dataclass(frozen=True)
class LedgerRecord:
    """An entry in its place: ``sequence`` counts from 0; ``previous``: the leaf hash of the record before (32 zero bytes before the first), so that each record vouches for all before it."""

    sequence: int
    previous: bytes
    entry: LedgerEntry

    def encode(self) -> bytes:
        """The canonical bytes: the leaf of the tree."""
        fields = {name: getattr(self.entry, name) for name in _FIELDS}
        entry = {**fields, "time": self.entry.milliseconds, "version": VERSION}
        # cbor2's canonical order (RFC 7049: the shorter key first) is RFC 8949's for keys below 24 bytes, as all of these are.
        return cbor2.dumps({"sequence": self.sequence, "previous": self.previous, "entry": entry}, canonical=True)


_FIELDS = tuple(LedgerEntry.__dataclass_fields__)
_KEYS = {*_FIELDS, "version"}


def parse_record(data: bytes) -> LedgerRecord:
    """A record from its canonical bytes, and from no others. Raises LedgerError."""
    try:
        value = cbor.decode(data)
    except cbor.CborError as error:
        raise LedgerError(error.slug, error.what, got=error.got, expected=error.expected) from error
    if not isinstance(value, dict) or set(value) != {"sequence", "previous", "entry"}:
        raise _field("record", type(value).__name__, "a map of sequence, previous and entry")
    sequence, previous = value["sequence"], value["previous"]
    if not _is_count(sequence) or not isinstance(previous, bytes) or len(previous) != _DIGEST:
        raise _field("record", f"sequence {sequence!r}", "a number from 0, and a hash of 32 bytes")
    record = LedgerRecord(sequence, previous, _parse_entry(value["entry"]))
    if record.encode() != data:
        raise LedgerError(
            "not-canonical", "a record in another encoding than the canonical one", got=f"record {sequence}", do="treat it as edited"
        )
    return record


def _parse_entry(value: Any) -> LedgerEntry:
    if not isinstance(value, dict) or set(value) != _KEYS:
        raise _field("entry", type(value).__name__, f"a map of {', '.join(sorted(_KEYS))}")
    if value["version"] != VERSION or isinstance(value["version"], bool):
        raise _field("version", value["version"], f"{VERSION}: a newer nitrokit wrote this")
    if not _is_count(value["time"]) or value["time"] > _MAX_TIME:
        raise _field("time", value["time"], "milliseconds since 1970")
    if not isinstance(value["pcrs"], dict):
        raise _field("pcrs", type(value["pcrs"]).__name__, "a map")
    fields = {name: value[name] for name in _FIELDS}
    return LedgerEntry(**{**fields, "time": _EPOCH + timedelta(milliseconds=value["time"])})


def _fit(text: str) -> str:
    """A reason as an entry can hold it."""
    return text.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")


def reference_sets_digest(sets: Sequence[Measurements]) -> bytes:
    """SHA-256 of the accepted sets of measurements, whatever their order: names what an entry was appraised against."""
    encoded = sorted(cbor2.dumps(one.pcrs(), canonical=True) for one in sets)
    return hashlib.sha256(cbor2.dumps(encoded, canonical=True)).digest()


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_labels(entry: LedgerEntry) -> None:
    for name in (*_LABELS, *_OPTIONAL_LABELS):
        value = getattr(entry, name)
        if value is None and name in _OPTIONAL_LABELS:
            continue
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            raise _field(name, repr(value), "1 to 128 printable ASCII characters without spaces")
    if entry.verdict not in (PASS, FAIL, UNREACHABLE):
        raise _field("verdict", repr(entry.verdict), f"{PASS}, {FAIL} or {UNREACHABLE}")
    if not isinstance(entry.reason, str | None):
        raise _field("reason", type(entry.reason).__name__, "text")


def _check_bytes(entry: LedgerEntry) -> None:
    for name, sizes in (
        ("nonce", range(MAX_OPTIONAL + 1)),
        ("document_sha256", (_DIGEST,)),
        ("policy_sha256", (_DIGEST,)),
    ):
        value = getattr(entry, name)
        if value is not None and (not isinstance(value, bytes) or len(value) not in sizes):
            raise _field(name, len(value) if isinstance(value, bytes) else type(value).__name__, f"{sizes[0]} to {sizes[-1]} bytes")
    if not isinstance(entry.document, bytes | None):
        raise _field("document", type(entry.document).__name__, "bytes")
    if len(entry.pcrs) > MAX_PCRS:
        raise _field("pcrs", len(entry.pcrs), f"at most {MAX_PCRS}")
    for index, pcr in entry.pcrs.items():
        if not _is_count(index) or index >= MAX_PCRS or not isinstance(pcr, bytes) or len(pcr) not in PCR_LENGTHS:
            raise _field("pcrs", f"PCR{index!r}"[:40], f"0 to {MAX_PCRS - 1}, each 32, 48 or 64 bytes")


def _field(name: str, got: object, expected: str) -> LedgerError:
    return LedgerError("field", f"the field {name} breaks its rule", got=str(got)[:200], expected=expected)
