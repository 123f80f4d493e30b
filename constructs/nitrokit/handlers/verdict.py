"""The verdict on one attestation document: every numbered check of docs/attestation_verification.md with its outcome, whichever of them failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nitrokit.core.attestation import (
    AppraisalError,
    AppraisalPolicy,
    ArchivedDocument,
    ChainCache,
    DocumentError,
    TrustAnchor,
    VerificationError,
    VerifiedDocument,
    appraise,
    appraise_archived,
    parse_document,
    verify_archived_document,
    verify_document,
)
from nitrokit.core.attestation.appraisal import CLOCK_SKEW, VERIFIED, Appraisal
from nitrokit.core.reference_values import ReferenceValues
from nitrokit.errors import NitrokitError

PASS, FAIL, UNREACHABLE = "PASS", "FAIL", "UNREACHABLE"
HELD, FAILED, NOT_REACHED, NOT_ASKED = "held", "failed", "not-reached", "not-asked"
NAMES = {
    **dict(enumerate(VERIFIED, 1)), 12: "not debug mode", 13: "nonce", 14: "age", 15: "measurements", 16: "parent and further PCRs", 17: "user_data and public_key",
    18: "module id and Region",
}  # fmt: skip
_FAILS = {
    "document": {"too-large": 2, "not-a-map": 2, "missing-field": 3, "unknown-field": 3, "field": 3, "algorithm": 1, "not-sign1": 1, "payload-size": 2, "signature-size": 1, "unprotected-header": 1},
    "verification": {
        "root": 4, "certificate-signature": 5, "certificate": 5, "algorithm": 5, "issuer": 5, "validity": 6, "not-a-ca": 7, "path-length": 7, "leaf-usage": 7, "leaf-is-ca": 7, "key": 8,
        "extension": 9, "signature": 10, "not-an-enclave": 11,
    },
    "appraisal": {"debug": 12, "nonce": 13, "future": 14, "stale": 14, "measurements": 15, "retired": 15, "parent": 16, "pcr": 16, "binding": 17, "identity": 18},
}  # fmt: skip
"""Which check an error's code tells of. A document's other codes are of strict CBOR (check 2)."""
_STAGES = {"document": 1, "verification": 4, "appraisal": 12}


@dataclass(frozen=True)
class Verdict:
    """What came of one document. ``document``: None where it is not authentic; ``error``: None where it passed."""

    document: VerifiedDocument | ArchivedDocument | None
    appraisal: Appraisal | None
    error: NitrokitError | None
    retire_after: datetime | None = None

    @property
    def verdict(self) -> str:
        return PASS if self.error is None else FAIL

    def checks(self) -> list[dict[str, Any]]:
        """All eighteen, each with its outcome: held, failed, not-reached (another one of its stage, or before, failed) or not-asked (the policy does not name it)."""
        if self.appraisal is not None and self.error is None:
            held = {check.number for check in self.appraisal.checks}
            return [_check(number, HELD if number in held else NOT_ASKED) for number in NAMES]
        assert self.error is not None
        failed, stage = failing_check(self.error), _STAGES[self.error.area]
        return [_check(number, HELD if number < stage else FAILED if number == failed else NOT_REACHED) for number in NAMES]

    def as_dict(self) -> dict[str, Any]:
        """As ``handlers/schemas/verify_attestation.json`` describes it."""
        return {
            "verdict": self.verdict,
            "code": self.error.code if self.error else None,
            "reason": str(self.error) if self.error else None,
            "checks": self.checks(),
            "differences": _differences(self.error),
            "retire_after": _text(self.retire_after),
            "document": _described(self.document),
        }


def _check(number: int, outcome: str) -> dict[str, Any]:
    return {"number": number, "name": NAMES[number], "outcome": outcome}


def failing_check(error: NitrokitError) -> int:
    """The number of the check that an error of the three stages tells of."""
    return _FAILS[error.area].get(error.slug, 2 if error.area == "document" else _STAGES[error.area])


def judge(
    data: bytes,
    policy: AppraisalPolicy,
    reference: ReferenceValues,
    *,
    trust_anchor: TrustAnchor,
    time: datetime | None,
    cache: ChainCache | None = None,
) -> Verdict:
    """Verify and appraise ``data`` at ``time``; None: at the document's own, as archived evidence. ``policy`` names the sets of ``reference``, whose dates are checked here."""
    document: VerifiedDocument | ArchivedDocument | None = None
    try:
        time = time and _tolerant(data, time)
        if time is None:
            document = archived = verify_archived_document(data, trust_anchor=trust_anchor, chain_cache=cache)
            appraisal = appraise_archived(archived, policy)
        else:
            document = verified = verify_document(data, trust_anchor=trust_anchor, time=time, chain_cache=cache)
            appraisal = appraise(verified, policy, time=time)
        return Verdict(document, appraisal, None, _date(appraisal, reference, time or document.timestamp))
    except (DocumentError, VerificationError, AppraisalError) as error:
        return Verdict(document, None, error)


def _tolerant(data: bytes, time: datetime) -> datetime:
    """The time to verify at: a leaf is often seconds old, and to a clock that is a little slow its certificate would not be valid yet. Never more than CLOCK_SKEW ahead of ``time``."""
    made = parse_document(data).timestamp
    return made if time < made <= time + CLOCK_SKEW else time


def _date(appraisal: Appraisal, reference: ReferenceValues, time: datetime) -> datetime | None:
    """Until when the set that matched is accepted; None: it is the current one. Raises AppraisalError where that is past."""
    retiring = next((one for one in reference.retiring if one.measurements == appraisal.measurements), None)
    if retiring is None:
        return None
    if retiring.is_past(time):
        raise AppraisalError(
            "retired",
            "the enclave runs an image whose measurements are retired",
            got=time.isoformat(),
            expected=f"at most {retiring.retire_after.isoformat()}",
            do="replace the enclave's image by the current one",
        )
    return retiring.retire_after


def _differences(error: NitrokitError | None) -> list[dict[str, Any]]:
    found = error.differences if isinstance(error, AppraisalError) else ()
    return [{"pcr": one.index, "expected": one.expected.hex(), "got": one.got.hex() if one.got is not None else None} for one in found]


def _described(document: VerifiedDocument | ArchivedDocument | None) -> dict[str, Any] | None:
    if document is None:
        return None
    optional = {name: getattr(document, name) for name in ("user_data", "public_key", "nonce")}
    return {
        "module_id": document.module_id,
        "timestamp": _text(document.timestamp),
        "debug": document.is_debug,
        "pcrs": {str(index): value.hex() for index, value in sorted(document.pcrs.items())},
        **{name: None if value is None else value.hex() for name, value in optional.items()},
    }


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat().replace("+00:00", "Z")
