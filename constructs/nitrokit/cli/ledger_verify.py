"""``nitrokit ledger verify``: the whole ledger is read, and nothing in it believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nitrokit.cli.files import read_file, write_file
from nitrokit.cli.ledger_source import OpenedLedger
from nitrokit.core.ledger import LedgerError, LedgerRecord, UnverifiedCheckpoint, root_of, walk
from nitrokit.errors import UsageError

VERIFIED, CONSISTENT = "VERIFIED", "CONSISTENT"


@dataclass(frozen=True)
class WholeReport:
    """A ledger that holds. VERIFIED: under a key that the caller named; CONSISTENT: in itself, whoever signed it."""

    opened: OpenedLedger
    root: bytes
    own: list[UnverifiedCheckpoint]
    kept: dict[str, UnverifiedCheckpoint]
    verdicts: Counter[str]

    @property
    def verdict(self) -> str:
        return VERIFIED if self.opened.trust.named and self.own else CONSISTENT

    @property
    def unsigned(self) -> int:
        """Entries behind the last checkpoint."""
        return self.opened.size - (self.own[-1].size if self.own else 0)

    def as_dict(self) -> dict[str, Any]:
        last = self.own[-1] if self.own else None
        return {
            "verdict": self.verdict,
            "ledger": self.opened.name,
            "origin": last.origin if last else None,
            "entries": self.opened.size,
            "unsigned_entries": self.unsigned,
            "root": self.root.hex(),
            "checkpoints": len(self.own),
            "signed_at": last.time.isoformat() if last else None,
            "continues": [{"file": name, "entries": one.size, "signed_at": one.time.isoformat()} for name, one in self.kept.items()],
            "verdicts": dict(self.verdicts),
        }

    def lines(self) -> list[str]:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items()))
        found = [
            f"{self.verdict}  {self.opened.size} entries in {self.opened.name}" + (f" ({counts})" if counts else ""),
            f"  root         {self.root.hex()}",
        ]
        if self.own:
            found.append(
                f"  checkpoints  {len(self.own)}, all of them held; the last of {self.own[-1].time:%Y-%m-%d %H:%M:%S} UTC, {self.own[-1].size} entries"
            )
        found += [f"  continues    {name}: {one.size} entries, signed {one.time:%Y-%m-%d %H:%M:%S} UTC" for name, one in self.kept.items()]
        if self.unsigned:
            found.append(
                f"  NOT SIGNED   {self.unsigned} of them, behind the last checkpoint: whoever can write the table could still change these"
            )
        if self.opened.trust.named and not self.own:
            found.append("  NOT SIGNED   the ledger has no checkpoint")
        elif not self.opened.trust.named:
            found.append(f"  WHOSE KEY    {self._whose()}")
        if not self.kept:
            found.append(
                "  NOT SEEN     without a checkpoint of a former run (--checkpoint): a ledger set back to an older checkpoint, or another history signed by the same key"
            )
        return found

    def _whose(self) -> str:
        import hashlib

        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        if self.opened.trust.key is None:
            return "no signature was looked at: name the key with --key or --kms-key"
        spki = self.opened.trust.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"the export's own, SHA-256 {hashlib.sha256(spki).hexdigest()}: compare it with the one you trust, or name that with --key"

    def save(self, path: Path) -> None:
        """Keep the last checkpoint. Raises UsageError."""
        if not self.opened.notes:
            raise UsageError(
                "no-checkpoint", "the ledger has no checkpoint to keep", do="sign it first: AttestationLedger's function does so every hour"
            )
        write_file(path, [self.opened.notes[-1].encode()])


def verify_whole(opened: OpenedLedger, kept: Sequence[Path]) -> WholeReport:
    """Read everything (nitrokit.core.ledger.audit tells what is checked). Raises LedgerError, LedgerKeyError, UsageError, LedgerUnavailableError."""
    own = [opened.trust.check(note) for note in opened.notes]
    former = {str(path): opened.trust.check(read_file(path)) for path in kept}
    if len(origins := {one.origin for one in [*own, *former.values()]}) > 1:
        raise LedgerError("origin", "the checkpoints are of several ledgers", got=", ".join(sorted(origins))[:300], expected="one ledger's")
    records = walk(opened.log, opened.size, [*own, *former.values()])
    verdicts = Counter(record.entry.verdict for record in _beside(opened, records))
    root = root_of(opened.size, opened.log.nodes)
    if opened.table is not None and (stored := opened.table[1].frontier.root()) != root:
        raise LedgerError(
            "head",
            "the ledger's head is not that of its records",
            got=stored.hex(),
            expected=root.hex(),
            do="treat the head as edited",
        )
    return WholeReport(opened, root, own, former, verdicts)


def _beside(opened: OpenedLedger, records: Iterator[LedgerRecord]) -> Iterator[LedgerRecord]:
    """The records, and of a live table what it keeps beside them, too."""
    if opened.table is None:
        return records
    from nitrokit.handlers.ledger_keys import check_ends, check_keys

    ledger, head = opened.table
    check_ends(ledger, opened.size, len(opened.notes))
    return check_keys(ledger, head, records)
