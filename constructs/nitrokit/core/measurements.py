"""PCR values: how they are computed, and ``measurements.json``.

Sources: aws-nitro-enclaves-image-format:README.md and src/utils/eif_hasher.rs (PCR0, 1, 2, 8); Nitro Enclaves User Guide "Cryptographic attestation" (PCR3, PCR4: no inner digest);
aws-nitro-enclaves-nsm-api:docs/attestation_process.md (extension).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nitrokit.errors import UsageError

PCR_LENGTH = 48
ZERO = bytes(PCR_LENGTH)
HASH_ALGORITHM = "Sha384 { ... }"  # nitro-cli prints exactly this
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+")
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


class MeasurementsError(UsageError):
    """A measurements file that cannot be used."""

    area = "measurements"


def digest(chunks: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """PCR0, PCR1, PCR2 and PCR8: SHA384(48 zero bytes ‖ SHA384(content)); 48 bytes."""
    inner = hashlib.sha384()
    for chunk in chunks:
        inner.update(chunk)
    return finalize(inner.digest())


def finalize(inner: bytes) -> bytes:
    """SHA384(48 zero bytes ‖ ``inner``), where ``inner`` is the SHA-384 of the content: a PCR extended once from zero."""
    return hashlib.sha384(ZERO + inner).digest()


EMPTY_PCR2 = digest([])
"""PCR2 of an EIF with a single ramdisk: the measurement of nothing."""


def pcr3(role_arn: str) -> bytes:
    """SHA384(48 zero bytes ‖ ARN of the parent's IAM role). Raises MeasurementsError for another ARN: an instance profile's or a session's is never measured."""
    if not _ROLE_ARN.fullmatch(role_arn):
        raise MeasurementsError(
            "role-arn",
            "not the ARN of an IAM role",
            got=role_arn[:160],
            expected="arn:aws:iam::<account>:role/<name>",
            do="name the role, not its instance profile or a session",
        )
    return hashlib.sha384(ZERO + role_arn.encode()).digest()


def pcr4(instance_id: str) -> bytes:
    """SHA384(48 zero bytes ‖ the parent's instance id). Raises MeasurementsError for another kind of id."""
    if not _INSTANCE_ID.fullmatch(instance_id):
        raise MeasurementsError("instance-id", "not an EC2 instance id", got=instance_id[:160], expected="i-<8 to 17 hex digits>")
    return hashlib.sha384(ZERO + instance_id.encode()).digest()


def pcr8(certificate_der: bytes) -> bytes:
    """The measurement of the DER of the certificate that signed the EIF."""
    return digest([certificate_der])


def extend(old: bytes, data: bytes) -> bytes:
    """PCR16–31 as ExtendPCR does: SHA384(old ‖ data)."""
    return hashlib.sha384(old + data).digest()


@dataclass(frozen=True)
class PcrDifference:
    """One PCR that differs; ``got`` is None where it is absent."""

    index: int
    expected: bytes
    got: bytes | None

    def __str__(self) -> str:
        return f"PCR{self.index} expected {self.expected.hex()} got {'nothing' if self.got is None else self.got.hex()}"


@dataclass(frozen=True)
class Measurements:
    """One set of measurements: PCR0, PCR1, PCR2 and, for a signed image, PCR8; 48 bytes each."""

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr8: bytes | None = None

    def __post_init__(self) -> None:
        for index, value in self.pcrs().items():
            if len(value) != PCR_LENGTH:
                raise MeasurementsError(
                    "pcr-length", f"PCR{index} has the wrong length", got=f"{len(value)} bytes", expected=f"{PCR_LENGTH} bytes"
                )

    def pcrs(self) -> dict[int, bytes]:
        """PCR index → value, PCR8 only where there is one."""
        values = {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}
        return values if self.pcr8 is None else {**values, 8: self.pcr8}

    def differences(self, other: Measurements) -> list[PcrDifference]:
        """The PCRs of this set (the expected one) that ``other`` does not have."""
        got = other.pcrs()
        return [PcrDifference(index, value, got.get(index)) for index, value in self.pcrs().items() if got.get(index) != value]

    def as_object(self) -> dict[str, dict[str, str]]:
        """``nitro-cli build-enclave``'s form, before it is JSON."""
        values = {"HashAlgorithm": HASH_ALGORITHM, **{f"PCR{index}": value.hex() for index, value in self.pcrs().items()}}
        return {"Measurements": values}

    def to_json(self) -> str:
        """``nitro-cli build-enclave``'s form, canonical, with a final newline."""
        return json.dumps(self.as_object(), indent=2) + "\n"

    @classmethod
    def parse(cls, text: str | bytes) -> Measurements:
        """Read ``build-enclave``'s or ``describe-eif``'s JSON, or the bare map of PCRs. Raises MeasurementsError.

        Leniently: what nitro-cli prints before the JSON (its progress, where both streams went to one file), a byte order mark, hex in either case, ``0x`` before it.
        """
        return cls.from_object(load_json(text))

    @classmethod
    def from_object(cls, value: object) -> Measurements:
        """The same from JSON that is loaded. Raises MeasurementsError."""
        fields = _fields(value)
        pcrs = {index: _pcr(fields, index) for index in (0, 1, 2)}
        return cls(pcrs[0], pcrs[1], pcrs[2], _pcr(fields, 8) if fields.get("PCR8") is not None else None)


def load_json(text: str | bytes) -> object:
    """The JSON in what nitro-cli printed, each name once. Raises MeasurementsError."""
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        start = re.search(r"^[ \t]*\{", decoded, re.MULTILINE)
        return json.loads(decoded[start.start() :] if start else decoded, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MeasurementsError(
            "not-json",
            "measurements are not JSON",
            got=str(error)[:200],
            expected="the output of nitro-cli build-enclave",
            do="record them anew with `nitrokit lock`",
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each name once: which of two values was meant is not for us to guess."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _fields(value: object) -> dict[str, Any]:
    fields = value.get("Measurements", value) if isinstance(value, dict) else None
    if not isinstance(fields, dict):
        raise MeasurementsError(
            "no-measurements",
            "no measurements in the JSON",
            got=type(fields).__name__,
            expected='{"Measurements": {"PCR0": …}}',
            do="record them anew with `nitrokit lock`",
        )
    return fields


def _pcr(fields: dict[str, Any], index: int) -> bytes:
    text = fields.get(f"PCR{index}")
    digits = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]{96})", text) if isinstance(text, str) else None
    if digits is None:
        raise MeasurementsError(
            "bad-pcr",
            f"PCR{index} is not a SHA-384 value",
            got=repr(text)[:120],
            expected=f"{2 * PCR_LENGTH} hex digits",
            do="record the measurements anew with `nitrokit lock`",
        )
    return bytes.fromhex(digits[1])
