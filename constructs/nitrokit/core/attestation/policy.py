"""Appraisal (RFC 9334): is this verified document one that I accept? The checks are numbered on from verification."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nitrokit.core.attestation.verifier import VerifiedDocument
from nitrokit.core.measurements import EMPTY_PCR2, Measurements, PcrDifference, differences, pcr3, pcr4
from nitrokit.errors import NitrokitError

CLOCK_SKEW = timedelta(minutes=1)
"""How far a document's timestamp may lie in the future: the hypervisor's clock and the verifier's are not one."""


class AppraisalError(NitrokitError):
    """An authentic document that the policy does not accept. ``differences``: every PCR that differs from the nearest accepted set."""

    area = "appraisal"

    def __init__(
        self,
        slug: str,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        do: str | None = None,
        differences: Sequence[PcrDifference] = (),
    ) -> None:
        super().__init__(slug, what, got=got, expected=expected, do=do)
        self.differences = tuple(differences)


@dataclass(frozen=True)
class AppraisalPolicy:
    """What is accepted. ``measurements``: any of these sets, whole. ``nonce``, ``user_data``, ``public_key``: exactly these bytes where given. ``max_age``: of the timestamp at appraisal.
    ``host_role_arn``, ``instance_id``: what PCR3 and PCR4 must measure. A policy without measurements, or with zero or empty ones, raises AppraisalError.
    """

    measurements: Sequence[Measurements]
    nonce: bytes | None = None
    max_age: timedelta | None = None
    user_data: bytes | None = None
    public_key: bytes | None = None
    host_role_arn: str | None = None
    instance_id: str | None = None
    allow_debug: bool = False

    def __post_init__(self) -> None:
        if not self.measurements:
            raise AppraisalError("empty-policy", "a policy without measurements accepts nothing", expected="at least one set")
        for one in self.measurements:
            for index, value in one.pcrs().items():
                if not any(value):
                    raise AppraisalError(
                        "zero-pcr",
                        f"a zero PCR{index} in the policy would accept any debug-mode enclave",
                        expected="measured values",
                        do="build the image and use its lock",
                    )
            if one.pcr2 == EMPTY_PCR2:
                raise AppraisalError(
                    "empty-pcr2",
                    "PCR2 of the policy is the measurement of nothing",
                    got=EMPTY_PCR2.hex(),
                    expected="the measurement of an application ramdisk",
                )


@dataclass(frozen=True)
class Check:
    """One check that held."""

    number: int
    name: str


@dataclass(frozen=True)
class Appraisal:
    """The document is accepted: the checks that held, and the set that it matched."""

    checks: tuple[Check, ...]
    measurements: Measurements


def appraise(document: VerifiedDocument, policy: AppraisalPolicy, *, time: datetime) -> Appraisal:
    """Appraise a verified document at ``time``. Raises AppraisalError.

    12. Not a debug-mode enclave (PCR0–2 zero), unless the policy allows it by name.
    13. The nonce is the one asked for (compared in constant time).
    14. The timestamp is not older than max_age, and not in the future beyond a minute.
    15. PCR0, PCR1, PCR2 (and PCR8 where locked) are those of one accepted set, whole.
    16. PCR3 and PCR4 measure the role and the instance, where named.
    17. user_data and public_key are those expected, where named.
    """
    checks = [
        Check(number, name)
        for number, name in enumerate(
            (
                "COSE_Sign1, ES384",
                "strict payload",
                "fields",
                "pinned root",
                "signatures of the path",
                "validity",
                "CA and leaf roles",
                "P-384",
                "extensions",
                "document signature",
                "enclave document",
            ),
            1,
        )
    ]
    if document.is_debug and not policy.allow_debug:
        raise AppraisalError(
            "debug",
            "a debug-mode enclave: PCR0, PCR1 and PCR2 are zero",
            expected="a production-mode enclave",
            do="run the enclave without --debug-mode",
            differences=_nearest(document, policy),
        )
    checks.append(Check(12, "not debug mode"))
    checks += _fresh(document, policy, time)
    matched = next((one for one in policy.measurements if not differences(one, dict(document.pcrs))), None)
    if matched is None and not (document.is_debug and policy.allow_debug):
        differing = _nearest(document, policy)
        raise AppraisalError(
            "measurements",
            "the enclave runs another image than the lock accepts",
            got="; ".join(map(str, differing)),
            expected=f"one of {len(policy.measurements)} accepted sets",
            do="find out which image runs; if it is meant, lock it",
            differences=differing,
        )
    checks.append(Check(15, "measurements"))
    checks += _bound(document, policy)
    return Appraisal(tuple(checks), matched or policy.measurements[0])


def _nearest(document: VerifiedDocument, policy: AppraisalPolicy) -> list[PcrDifference]:
    return min((differences(one, dict(document.pcrs)) for one in policy.measurements), key=len)


def _fresh(document: VerifiedDocument, policy: AppraisalPolicy, time: datetime) -> list[Check]:
    held = []
    if policy.nonce is not None:
        if document.nonce is None or not hmac.compare_digest(document.nonce, policy.nonce):
            raise AppraisalError(
                "nonce", "the document carries another nonce: it was made for somebody else, or earlier", do="ask for a fresh document"
            )
        held.append(Check(13, "nonce"))
    if document.timestamp > time + CLOCK_SKEW:
        raise AppraisalError(
            "future",
            "the document's timestamp lies in the future",
            got=document.timestamp.isoformat(),
            expected=f"at most {time.isoformat()}",
            do="set the clock",
        )
    if policy.max_age is not None:
        if time - document.timestamp > policy.max_age:
            raise AppraisalError(
                "stale",
                "the document is too old",
                got=str(time - document.timestamp),
                expected=f"at most {policy.max_age}",
                do="ask for a fresh document",
            )
        held.append(Check(14, "age"))
    return held


def _bound(document: VerifiedDocument, policy: AppraisalPolicy) -> list[Check]:
    held = []
    for index, expected in ((3, policy.host_role_arn and pcr3(policy.host_role_arn)), (4, policy.instance_id and pcr4(policy.instance_id))):
        if expected:
            got = document.pcrs.get(index)
            if got != expected:
                raise AppraisalError(
                    "parent",
                    f"PCR{index} measures another parent",
                    got=got.hex() if got else "nothing",
                    expected=expected.hex(),
                    differences=[PcrDifference(index, expected, got)],
                )
            held.append(Check(16, f"PCR{index}"))
    for name in ("user_data", "public_key"):
        wanted, has = getattr(policy, name), getattr(document, name)
        if wanted is not None:
            if has is None or not hmac.compare_digest(has, wanted):
                raise AppraisalError("binding", f"{name} is not what was expected")
            held.append(Check(17, name))
    return held
