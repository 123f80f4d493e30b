"""The appraisal policy (RFC 9334): what a relying party accepts. A policy that would accept what nobody means cannot be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from nitrokit.core.measurements import EMPTY_PCR2, PCR_LENGTH, Measurements, PcrDifference, pcr3, pcr4, pcr8
from nitrokit.errors import NitrokitError

IMAGE_PCRS = (0, 1, 2, 8)
"""The PCRs that tell the image: zero in debug mode."""


class AppraisalError(NitrokitError):
    """An authentic document that the policy does not accept, or a policy that cannot be made. ``differences``: every PCR that differs from the nearest accepted set."""

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
    """What is accepted. Raises AppraisalError for no measurements, zero or empty values, or values that contradict each other; MeasurementsError for a malformed ARN or id.

    ``measurements``: any of these sets, whole. ``nonce``, ``user_data``, ``public_key``, ``module_id``, ``region``: exactly these where given. ``max_age``: of the timestamp at
    appraisal. ``host_role_arn``, ``instance_id``: what PCR3 and PCR4 must measure. ``signing_certificate``: DER, what PCR8 must measure. ``pcrs``: further PCRs by index (16–31 are
    the application's own; a document shows them once they are locked). ``allow_debug``: accept a debug-mode enclave, whose image nobody knows.
    """

    measurements: Sequence[Measurements]
    nonce: bytes | None = None
    max_age: timedelta | None = None
    user_data: bytes | None = None
    public_key: bytes | None = None
    module_id: str | None = None
    region: str | None = None
    host_role_arn: str | None = None
    instance_id: str | None = None
    signing_certificate: bytes | None = None
    pcrs: Mapping[int, bytes] = field(default_factory=dict)
    allow_debug: bool = False

    def __post_init__(self) -> None:
        if not self.measurements:
            raise AppraisalError("empty-policy", "a policy without measurements accepts nothing", expected="at least one set")
        if self.nonce == b"":
            raise AppraisalError("empty-nonce", "an empty nonce proves nothing", expected="random bytes that were never used before")
        object.__setattr__(self, "measurements", tuple(self.measurements))
        for one in self.measurements:
            self.expected(one)

    def expected(self, one: Measurements) -> dict[int, bytes]:
        """All PCRs that a document must have to match the set ``one``: index → value. Raises AppraisalError, MeasurementsError."""
        found = dict(one.pcrs())
        for index, value in self._named():
            if found.setdefault(index, value) != value:
                raise AppraisalError(
                    "contradiction",
                    f"the policy has two values for PCR{index}",
                    got=value.hex(),
                    expected=found[index].hex(),
                    do="leave one of them out",
                )
        for index, value in found.items():
            _check_value(index, value)
        return found

    def _named(self) -> list[tuple[int, bytes]]:
        named = list(self.pcrs.items())
        if self.host_role_arn is not None:
            named.append((3, pcr3(self.host_role_arn)))
        if self.instance_id is not None:
            named.append((4, pcr4(self.instance_id)))
        if self.signing_certificate is not None:
            named.append((8, pcr8(self.signing_certificate)))
        return named


def _check_value(index: int, value: bytes) -> None:
    if not 0 <= index <= 31 or len(value) != PCR_LENGTH:
        raise AppraisalError("bad-pcr", "no such PCR value", got=f"PCR{index}: {len(value)} bytes", expected=f"PCR0–31, {PCR_LENGTH} bytes")
    if not any(value):
        raise AppraisalError(
            "zero-pcr",
            f"a zero PCR{index} in the policy would accept any debug-mode enclave",
            expected="measured values",
            do="build the image and use its lock",
        )
    if index == 2 and value == EMPTY_PCR2:
        raise AppraisalError(
            "empty-pcr2",
            "PCR2 of the policy is the measurement of nothing",
            got=EMPTY_PCR2.hex(),
            expected="the measurement of an application ramdisk",
            do="build the image with its application in a ramdisk of its own",
        )
