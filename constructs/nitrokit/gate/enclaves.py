"""(5) Running enclaves: each is asked for a document with a nonce of its own; what it proves is compared with the lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nitrokit.core.attestation import (
    AppraisalPolicy,
    ChainCache,
    DocumentError,
    TrustAnchor,
    VerificationError,
    VerifiedDocument,
    parse_document,
    summarize_chain,
)
from nitrokit.errors import NitrokitError
from nitrokit.gate.locks import LockedImage, differences
from nitrokit.gate.report import Comparison, Place, one_line
from nitrokit.handlers.hosts import Answer
from nitrokit.handlers.verdict import judge

MAX_AGE = timedelta(minutes=5)
_RULES = {
    "appraisal/debug": "debug-enclave",
    "appraisal/nonce": "replayed",
    "appraisal/stale": "stale",
    "appraisal/future": "stale",
    "verification/validity": "stale",
    "appraisal/measurements": "unknown-set",
    "appraisal/retired": "set-past-date",
    "appraisal/parent": "wrong-parent",
    "appraisal/pcr": "wrong-parent",
    "appraisal/identity": "wrong-place",
}
"""An error's code → the rule; every other one means that the document is not authentic."""


@dataclass(frozen=True)
class Expected:
    """What a document must be of: ``role_arn`` and the instance of the answer are measured in PCR3 and PCR4."""

    image: LockedImage
    region: str
    role_arn: str | None


@dataclass(frozen=True)
class Judge:
    """What documents are verified by. ``chains``: certificates that held before are not walked again."""

    trust_anchor: TrustAnchor
    chains: ChainCache

    def compare(self, answers: Iterable[Answer], expected: Expected, clock: Any) -> Iterator[Comparison]:
        """One comparison for each answer, as they come. ``clock``: the time now, read for each, since asking takes its time."""
        return (self._compare(one, expected, clock()) for one in answers)

    def _compare(self, answer: Answer, expected: Expected, time: datetime) -> Comparison:
        image = expected.image

        def found(rule: str, reason: str, **more: Any) -> Comparison:
            return Comparison(Place.ENCLAVE, f"{image.name} on {answer.instance_id}", rule, reason, image.name, **more)

        if answer.document is None:
            return found("unreachable", answer.reason or "no document")
        policy = AppraisalPolicy(
            measurements=image.values.sets(),
            nonce=answer.nonce,
            max_age=MAX_AGE,
            host_role_arn=expected.role_arn,
            instance_id=answer.instance_id,
            region=expected.region,
        )
        verdict = judge(answer.document, policy, image.values, trust_anchor=self.trust_anchor, time=time, cache=self.chains)
        evidence = _evidence(answer.document, verdict.document) if isinstance(verdict.document, VerifiedDocument) else None
        if verdict.error is not None:
            details = _differing(verdict.error, verdict.document, image)
            return found(_RULES.get(verdict.error.code, "not-authentic"), str(verdict.error), details=details, evidence=evidence)
        if verdict.retire_after is not None:
            return found("planned-rollover", "runs a set that retires", until=verdict.retire_after, evidence=evidence)
        return found("agrees", "runs the current set", evidence=evidence)


def _differing(error: NitrokitError, document: object, image: LockedImage) -> tuple[str, ...]:
    named = tuple(str(one) for one in getattr(error, "differences", ()))
    return named or (differences(document.pcrs, [image]) if isinstance(document, VerifiedDocument) and document.is_debug else ())


def _evidence(data: bytes, document: VerifiedDocument) -> dict[str, Any]:
    """A verified document, for people."""
    return {
        "module_id": one_line(document.module_id),
        "region": document.region,
        "timestamp": document.timestamp.isoformat(),
        "pcrs": {str(index): value.hex() for index, value in sorted(document.pcrs.items()) if any(value)},
        "chain": _chain(data),
    }


def _chain(data: bytes) -> Sequence[dict[str, str]]:
    """Its certificates, the root first."""
    try:
        return [
            {
                "subject": one_line(one.subject),
                "not_before": one.not_before.isoformat(),
                "not_after": one.not_after.isoformat(),
                "sha256": one.sha256,
            }
            for one in summarize_chain(parse_document(data))
        ]
    except (DocumentError, VerificationError):
        return []
