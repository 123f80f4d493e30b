"""An attestation document and what was found about it, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nitrokit.errors import NitrokitError

if TYPE_CHECKING:
    from nitrokit.core.attestation import Appraisal, ArchivedDocument, CertificateSummary, UnverifiedDocument, VerifiedDocument

PASS, AUTHENTIC, FAIL = "PASS", "AUTHENTIC", "FAIL"


@dataclass
class Evidence:
    """One document on its way: parsed, then verified, then appraised; or ``error``, which ended it."""

    label: str
    time: datetime | None = None
    parsed: UnverifiedDocument | None = None
    chain: list[CertificateSummary] = field(default_factory=list)
    verified: VerifiedDocument | ArchivedDocument | None = None
    appraisal: Appraisal | None = None
    lock: str | None = None
    error: NitrokitError | None = None

    @property
    def verdict(self) -> str:
        """AUTHENTIC: verified, and compared with nothing."""
        return FAIL if self.error else PASS if self.appraisal else AUTHENTIC

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Without a verified document, what is told is what the document claims."""
        document = self.verified or self.parsed
        return {
            "document": self.label,
            "verdict": self.verdict,
            "error": self.error.as_dict() if self.error else None,
            "differences": [
                {"pcr": one.index, "expected": one.expected.hex(), "got": one.got.hex() if one.got else None}
                for one in getattr(self.error, "differences", ())
            ],
            "verified": self.verified is not None,
            "archived": self.appraisal.archived if self.appraisal else type(self.verified).__name__ == "ArchivedDocument",
            "debug_mode": self.verified.is_debug if self.verified else None,
            "module_id": document.module_id if document else None,
            "region": self.verified.region if self.verified else None,
            "timestamp": document.timestamp.isoformat() if document else None,
            "validation_time": self.time.isoformat() if self.time else None,
            "pcrs": {str(index): pcr.hex() for index, pcr in document.pcrs.items()} if document else None,
            "user_data": document.user_data.hex() if document and document.user_data is not None else None,
            "nonce": document.nonce.hex() if document and document.nonce is not None else None,
            "public_key": document.public_key.hex() if document and document.public_key is not None else None,
            "lock": self.lock,
            "checks": [{"number": check.number, "name": check.name} for check in self.appraisal.checks] if self.appraisal else [],
            "chain": [
                {
                    "subject": one.subject,
                    "not_before": one.not_before.isoformat(),
                    "not_after": one.not_after.isoformat(),
                    "sha256": one.sha256,
                }
                for one in self.chain
            ],
        }

    def lines(self) -> list[str]:
        """For people."""
        document = self.verified or self.parsed
        head = {
            PASS: "PASS       authentic, and of an accepted image",
            AUTHENTIC: "AUTHENTIC  not appraised: name what you accept with --measurements",
            FAIL: f"FAIL       {self.error.what} [{self.error.code}]" if self.error else "",
        }
        found = [head[self.verdict], f"  document   {self.label}"]
        if self.error is not None:
            differing = getattr(self.error, "differences", ())
            found += [f"  PCR{one.index:<7} expected {one.expected.hex()}" for one in differing]
            parts = (("got", None if differing else self.error.got), ("expected", self.error.expected), ("do this", self.error.do))
            found += [f"  {name:<10} {value}" for name, value in parts if value is not None]
        if document is None:
            return found
        claim = "" if self.verified else " (claimed: the document did not verify)"
        region = f" in {self.verified.region}" if self.verified and self.verified.region else ""
        found.append(f"  enclave    {document.module_id}{region}{claim}")
        if self.verified and self.verified.is_debug:
            found.append("  DEBUG MODE its parent reads its memory and console; nobody knows its image")
        found.append(f"  signed at  {_date(document.timestamp)}{claim}")
        found += [f"  PCR{index:<7} {value.hex()}" for index, value in sorted(document.pcrs.items()) if any(value)]
        if self.lock:
            found.append(f"  matches    {self.lock}")
        if self.appraisal:
            found.append("  checks     " + ", ".join(f"{check.number} {check.name}" for check in self.appraisal.checks))
        return found + self._chain()

    def _chain(self) -> list[str]:
        if not self.chain or self.time is None:
            return []
        archived = "its own time: ARCHIVED EVIDENCE, which says nothing about now" if self._is_archived() else "the validation time"
        found = [f"  chain      at {_date(self.time)}, {archived}"]
        for one in self.chain:
            mark = "✓" if one.not_before <= self.time <= one.not_after else "✗"
            found.append(
                f"    {mark} {_date(one.not_before)} to {_date(one.not_after)} ({_span(one.not_after - one.not_before)})  {one.subject}"
            )
        if self.verified and not self._is_archived():
            found.append(f"    expires in {_span(min(one.not_after for one in self.chain) - self.time)}")
        return found

    def _is_archived(self) -> bool:
        return self.parsed is not None and self.time == self.parsed.timestamp


def _date(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(span: timedelta) -> str:
    for unit, size in (
        ("years", timedelta(days=365.25)),
        ("days", timedelta(days=1)),
        ("h", timedelta(hours=1)),
        ("min", timedelta(minutes=1)),
    ):
        if span >= 2 * size:
            return f"{span / size:.0f} {unit}" if unit in ("years", "days") else f"{span / size:.1f} {unit}"
    return f"{span.total_seconds():.0f} s"
