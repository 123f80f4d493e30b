"""Appraisal (RFC 9334): is this verified document one that I accept? The checks are numbered on from verification."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from nitrokit.core.attestation.policy import IMAGE_PCRS, AppraisalError, AppraisalPolicy
from nitrokit.core.attestation.verifier import ArchivedDocument, VerifiedDocument
from nitrokit.core.measurements import Measurements, PcrDifference

CLOCK_SKEW = timedelta(minutes=1)
"""How far a document's timestamp may lie in the future: the hypervisor's clock and the verifier's are not one."""

VERIFIED = (
    "COSE_Sign1, ES384", "strict payload", "fields", "pinned root", "signatures of the path", "validity", "CA and leaf roles", "P-384", "extensions", "document signature",
    "enclave document",
)  # fmt: skip
"""Checks 1–11: they held, or there would be no verified document."""

_Document = VerifiedDocument | ArchivedDocument


@dataclass(frozen=True)
class Check:
    """One check that held."""

    number: int
    name: str


@dataclass(frozen=True)
class Appraisal:
    """The document is accepted: the checks that held, and the set that it matched (None for a debug-mode enclave, whose image nobody knows).

    ``archived``: at the document's own time, long ago; nothing is said about now.
    """

    checks: tuple[Check, ...]
    measurements: Measurements | None
    archived: bool


def appraise(document: VerifiedDocument, policy: AppraisalPolicy, *, time: datetime) -> Appraisal:
    """Appraise a verified document at ``time``. Raises AppraisalError.

    12. Not a debug-mode enclave (PCR0–2 zero), unless the policy allows it by name.
    13. The nonce is the one asked for (compared in constant time).
    14. The timestamp is not older than max_age, and not in the future beyond a minute.
    15. PCR0, PCR1, PCR2 (and PCR8 where locked or named by its certificate) are those of one accepted set, whole.
    16. PCR3 and PCR4 measure the role and the instance, and further PCRs have the values, that the policy names.
    17. user_data and public_key are those expected, where named.
    18. The enclave's module id and Region are those expected, where named.
    """
    if not isinstance(document, VerifiedDocument):
        raise TypeError(f"appraise takes a VerifiedDocument, not a {type(document).__name__}")
    return _appraise(document, policy, _age(document, policy, time))


def appraise_archived(document: ArchivedDocument, policy: AppraisalPolicy) -> Appraisal:
    """Appraise archived evidence by the same checks but the age, which has no meaning at the document's own time. Raises AppraisalError."""
    if not isinstance(document, ArchivedDocument):
        raise TypeError(f"appraise_archived takes an ArchivedDocument, not a {type(document).__name__}")
    if policy.max_age is not None:
        raise AppraisalError(
            "archived-age", "archived evidence has no age", got=f"max_age {policy.max_age}", expected="no max_age",
            do="leave max_age out, or verify a fresh document",
        )  # fmt: skip
    return _appraise(document, policy, [])


def _appraise(document: _Document, policy: AppraisalPolicy, age: list[Check]) -> Appraisal:
    checks = [Check(number, name) for number, name in enumerate(VERIFIED, 1)]
    if document.is_debug and not policy.allow_debug:
        raise AppraisalError(
            "debug",
            "a debug-mode enclave: PCR0, PCR1 and PCR2 are zero",
            expected="a production-mode enclave",
            do="run the enclave without --debug-mode",
            differences=_differences(document, policy)[1],
        )
    checks.append(Check(12, "debug mode, allowed by the policy" if document.is_debug else "not debug mode"))
    if policy.nonce is not None:
        _check_nonce(document, policy.nonce)
        checks.append(Check(13, "nonce"))
    matched, pcr_checks = _measurements(document, policy)
    checks += [*age, *pcr_checks, *_bound(document, policy)]
    return Appraisal(tuple(checks), matched, isinstance(document, ArchivedDocument))


def _check_nonce(document: _Document, nonce: bytes) -> None:
    if document.nonce is None or not hmac.compare_digest(document.nonce, nonce):
        raise AppraisalError(
            "nonce", "the document carries another nonce: it was made for somebody else, or earlier", do="ask for a fresh document"
        )


def _age(document: VerifiedDocument, policy: AppraisalPolicy, time: datetime) -> list[Check]:
    if document.timestamp > time + CLOCK_SKEW:
        raise AppraisalError(
            "future",
            "the document's timestamp lies in the future",
            got=document.timestamp.isoformat(),
            expected=f"at most {time.isoformat()}",
            do="set the clock",
        )
    if policy.max_age is None:
        return []
    if time - document.timestamp > policy.max_age:
        raise AppraisalError(
            "stale",
            "the document is too old",
            got=str(time - document.timestamp),
            expected=f"at most {policy.max_age}",
            do="ask for a fresh document",
        )
    return [Check(14, "age")]


def _differences(document: _Document, policy: AppraisalPolicy) -> tuple[Measurements, list[PcrDifference]]:
    """The nearest accepted set, and every PCR in which the document differs from it. A debug-mode enclave's image PCRs differ only where the policy does not allow debug mode."""
    skipped = IMAGE_PCRS if document.is_debug and policy.allow_debug else ()

    def of(one: Measurements) -> list[PcrDifference]:
        expected = policy.expected(one)
        return [
            PcrDifference(index, value, document.pcrs.get(index))
            for index, value in sorted(expected.items())
            if index not in skipped and document.pcrs.get(index) != value
        ]

    return min(((one, of(one)) for one in policy.measurements), key=lambda pair: len(pair[1]))


def _measurements(document: _Document, policy: AppraisalPolicy) -> tuple[Measurements | None, list[Check]]:
    matched, differing = _differences(document, policy)
    if differing:
        image = any(one.index in IMAGE_PCRS for one in differing)
        raise AppraisalError(
            "measurements" if image else "parent" if any(one.index in (3, 4) for one in differing) else "pcr",
            "the enclave runs another image than the lock accepts" if image else "the enclave's parent or state is not the one expected",
            got="; ".join(map(str, differing)),
            expected=f"one of {len(policy.measurements)} accepted sets",
            do="find out which image runs; if it is meant, lock it" if image else "find out on which host and in which role it runs",
            differences=differing,
        )
    checks = [] if document.is_debug else [Check(15, "measurements")]
    named = sorted(set(policy.expected(matched)) - set(IMAGE_PCRS))
    return None if document.is_debug else matched, [*checks, *(Check(16, f"PCR{index}") for index in named)]


def _bound(document: _Document, policy: AppraisalPolicy) -> list[Check]:
    held = []
    for name in ("user_data", "public_key"):
        wanted, has = getattr(policy, name), getattr(document, name)
        if wanted is not None:
            if has is None or not hmac.compare_digest(has, wanted):
                raise AppraisalError(
                    "binding", f"{name} is not what was expected", got="nothing" if has is None else f"{len(has)} other bytes",
                    do="treat the channel as somebody else's",
                )  # fmt: skip
            held.append(Check(17, name))
    for name in ("module_id", "region"):
        wanted = getattr(policy, name)
        if wanted is not None:
            if getattr(document, name) != wanted:
                raise AppraisalError("identity", f"another {name} than expected", got=getattr(document, name), expected=wanted)
            held.append(Check(18, name))
    return held
