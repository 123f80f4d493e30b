"""One enclave, checked: as the ledger, a finding and the answer tell it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nitrokit.core.attestation import AppraisalPolicy, ChainCache, TrustAnchor
from nitrokit.core.ledger import LedgerEntry, reference_sets_digest
from nitrokit.handlers.findings import Finding
from nitrokit.handlers.hosts import Answer
from nitrokit.handlers.settings import Fleet
from nitrokit.handlers.verdict import FAIL, PASS, UNREACHABLE, Verdict, judge

SOURCE = "check-enclaves"
MAX_AGE = timedelta(minutes=5)
_UNREACHABLE_CODE = "check/unreachable"


@dataclass(frozen=True)
class Checked:
    """``judged``: None where the host gave no document."""

    answer: Answer
    judged: Verdict | None
    time: datetime

    @property
    def instance_id(self) -> str:
        return self.answer.instance_id

    @property
    def verdict(self) -> str:
        return UNREACHABLE if self.judged is None else self.judged.verdict

    @property
    def code(self) -> str | None:
        if self.judged is None:
            return _UNREACHABLE_CODE
        return self.judged.error.code if self.judged.error else None

    @property
    def reason(self) -> str | None:
        return self.answer.reason if self.judged is None else str(self.judged.error) if self.judged.error else None

    @property
    def outcome(self) -> str:
        """What is compared with the last time: the verdict and its cause."""
        return f"{self.verdict} {self.code or ''}".strip()

    def as_entry(self, run_id: str, fleet: Fleet) -> LedgerEntry:
        """The ledger's entry; its id is of the run and the enclave, so that a part done twice is written once."""
        document = self.judged.document if self.judged else None
        return LedgerEntry(
            entry_id=f"{run_id}/{fleet.enclave}/{self.instance_id}",
            time=self.time,
            enclave=fleet.enclave,
            host=self.instance_id,
            source=SOURCE,
            verdict=self.verdict,
            reason=self.reason,
            module_id=document.module_id if document else None,
            pcrs=document.pcrs if document else {},
            nonce=self.answer.nonce,
            document=self.answer.document,
            policy_sha256=reference_sets_digest(fleet.reference.sets()),
            image=self._image(fleet.enclave),
        )

    def _image(self, enclave: str) -> str | None:
        """What people call the locked image that it runs: its name, and how PCR0 begins; None where it did not pass."""
        matched = self.judged.appraisal.measurements if self.judged and self.judged.error is None and self.judged.appraisal else None
        return None if matched is None else f"{enclave}@{matched.pcr0.hex()[:12]}"

    def as_finding(self, fleet: Fleet, resource: str) -> Finding:
        """What changed, for those who watch."""
        passed = self.verdict == PASS
        said = "proves again that it runs the locked image" if passed else "does not prove that it runs the locked image"
        return Finding(
            kind="attestation",
            subject=f"{fleet.enclave}/{self.instance_id}",
            title=f"Enclave {fleet.enclave} on {self.instance_id} {said}",
            description=self.reason or "Every check of its attestation document held.",
            severity="CRITICAL" if self.verdict == FAIL else "HIGH",
            resource=(resource, "AwsEc2Instance"),
            remedy="Isolate the host and find out which image it runs."
            if self.verdict == FAIL
            else "Find out why the host gives no document.",
            passed=passed,
            details={"enclave": fleet.enclave, "instance_id": self.instance_id, "verdict": self.verdict, "code": self.code or ""},
        )

    def as_failure(self, fleet: Fleet) -> dict[str, Any]:
        """For the function's answer."""
        differences = self.judged.as_dict()["differences"] if self.judged else []
        return {
            "enclave": fleet.enclave, "instance_id": self.instance_id, "verdict": self.verdict, "code": self.code, "reason": (self.reason or "")[:500], "differences": differences,
        }  # fmt: skip


def check(fleet: Fleet, answer: Answer, *, trust_anchor: TrustAnchor, time: datetime, cache: ChainCache) -> Checked:
    """A host's answer, verified and appraised as its fleet's enclave on that very host, asked with that very nonce."""
    if answer.document is None:
        return Checked(answer, None, time)
    policy = AppraisalPolicy(
        measurements=fleet.reference.sets(),
        nonce=answer.nonce,
        max_age=MAX_AGE,
        host_role_arn=fleet.host_role_arn,
        instance_id=answer.instance_id,
    )
    return Checked(answer, judge(answer.document, policy, fleet.reference, trust_anchor=trust_anchor, time=time, cache=cache), time)
