"""Who could try to open data, and with which attestation documents: the cases that an analysis of a key policy goes through.

Sources: KMS Developer Guide "Condition keys for attested requests"; Nitro Enclaves User Guide "Cryptographic attestation" (debug mode: PCR0–2 zero; documents of debug-mode enclaves in
public repositories keep PCR3 and PCR4); EC2 User Guide "Amazon EC2 instance attestation" (NitroTPM).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nitrokit.core.key_policy.conditions import split_operator
from nitrokit.core.key_policy.document import Condition, PolicyError, Statement
from nitrokit.core.key_policy.evaluate import ATTESTATION_PREFIX
from nitrokit.core.measurements import EMPTY_PCR2

ZERO = "00" * 48
_FOREIGN = "f0" * 48  # stands for a measurement that no policy names
_KEY = re.compile(rf"{ATTESTATION_PREFIX}(imagesha384|(?:pcr|nitrotpmpcr)(?:0|[1-9][0-9]?))")
_TPM = f"{ATTESTATION_PREFIX}nitrotpmpcr"
_IMAGE, _PCR = f"{ATTESTATION_PREFIX}imagesha384", f"{ATTESTATION_PREFIX}pcr"
_VALUE = re.compile("[0-9a-f]{96}")
_WILD = re.compile(r"[*?]")


@dataclass(frozen=True)
class Actor:
    """A principal that stands for all like it. ``label``: for people."""

    arn: str
    account: str
    kind: str
    label: str

    def context(self) -> dict[str, str]:
        """The condition keys that go with who one is."""
        service = {"aws:PrincipalIsAWSService": "true" if self.kind == "Service" else "false"}
        own = {"aws:PrincipalArn": self.arn, "aws:PrincipalAccount": self.account, "kms:CallerAccount": self.account}
        return service | (own if self.kind == "AWS" else {})


def is_attestation_key(key: str) -> bool:
    """Whether KMS knows the key: PCR0–31, NitroTPMPCR0–23, ImageSha384; names are case-insensitive."""
    found = _KEY.fullmatch(key.lower())
    if found is None:
        return False
    number = int(found[1].rpartition("r")[2]) if found[1] != "imagesha384" else 0
    return number <= (23 if found[1].startswith("nitrotpm") else 31)


def actors(statements: Sequence[Statement], account: str, partition: str) -> list[Actor]:
    """One principal for each name in the policy, one of the account that it does not name, and a stranger."""
    found = {
        "account": Actor(f"arn:{partition}:iam::{account}:role/any", account, "AWS", f"any principal of account {account}"),
        "stranger": Actor(f"arn:{partition}:iam::000000000000:role/any", "000000000000", "AWS", "any AWS principal, of any account"),
    }
    for statement in statements:
        for kind, name in statement.principals.names if statement.principals else ():
            if name != "*":
                found[f"{kind} {name}"] = _actor(kind, name, account, partition)
        for condition in statement.conditions:
            if condition.key.lower() == "aws:principalarn":
                found |= {f"AWS {value}": _actor("AWS", _WILD.sub("x", value), account, partition, value) for value in condition.values}
    return list(found.values())


def _actor(kind: str, name: str, account: str, partition: str, label: str | None = None) -> Actor:
    parts = name.split(":")
    own = parts[4] if len(parts) > 5 else name if name.isdigit() else account
    if kind == "AWS" and (name.isdigit() or name.endswith(":root")):
        return Actor(f"arn:{partition}:iam::{own}:role/any", own, kind, f"any principal of account {own}")
    return Actor(name, own, kind, label or name)


def documents(statement: Statement, statements: Sequence[Statement]) -> Iterator[tuple[str, dict[str, str]]]:
    """(finding, attestation context) pairs from the worst to the mildest: no document; then documents that a parent's owner can get, with everything right but what is named.

    Whoever owns the parent has the right role and instance (PCR3, PCR4); whoever writes the image extends PCR16–31 as they like.
    """
    yield "unattested", {}
    wanted = _wanted(statement, statements)
    if any(key.startswith(_TPM) for key in wanted):
        yield from _tpm_documents(wanted)
        return
    free = {key: values[0] for key, values in wanted.items() if _index(key) in (3, 4) or _index(key) > 15}
    foreign = {**{f"{_PCR}{index}": _FOREIGN for index in range(16)}, _IMAGE: _FOREIGN, f"{_PCR}8": ZERO, **free}
    zero = {_IMAGE: ZERO, **{f"{_PCR}{index}": ZERO for index in (0, 1, 2, 8)}}
    yield "any-image", foreign
    yield "debug-enclave", {**foreign, **zero}
    boot = {**foreign, **_right(wanted, 1)}
    yield "boot-only", boot
    yield "empty-application", {**boot, f"{_PCR}2": EMPTY_PCR2.hex()}
    yield "signer-only", {**boot, **_right(wanted, 8)}
    mixed = [key for key, values in wanted.items() if _index(key) in (0, 1, 2, 8) and len(values) > 1]
    if len(mixed) > 1:
        yield "mixed-sets", {**right_document(wanted), **{key: wanted[key][number % 2] for number, key in enumerate(mixed)}}


def _tpm_documents(wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    foreign = {f"{_TPM}{index}": _FOREIGN for index in range(24)}
    yield "any-image", foreign
    boot = {f"{_TPM}{index}": values[0] for index in (0, 1, 2, 3, 4, 5, 6, 8, 9) if (values := wanted.get(f"{_TPM}{index}"))}
    yield "tpm-boot-arguments", {**foreign, **boot}


def right_document(wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A document with the first accepted value everywhere."""
    foreign = {f"{_PCR}{index}": _FOREIGN for index in range(16)}
    return {**foreign, **{key: _instance(values[0]) for key, values in wanted.items()}}


def is_pcr_value(value: str) -> bool:
    """Whether this can be a value of KMS's: 96 lower-case hex digits."""
    return _VALUE.fullmatch(value) is not None


def _instance(value: str) -> str:
    """A measurement that fits what a policy names, a pattern perhaps; one that no policy names where none does."""
    filled = value.replace("?", "0").replace("*", "0" * max(0, 97 - len(value)), 1).replace("*", "")
    return filled if is_pcr_value(filled) else _FOREIGN


def wanted_by(statement: Statement) -> dict[str, list[str]]:
    """Attestation key (lower case) → the values that a statement's positive conditions name."""
    found: dict[str, list[str]] = {}
    for condition in statement.conditions:
        if is_attestation_key(condition.key) and is_positive(condition):
            found.setdefault(condition.key.lower(), []).extend(value.lower() for value in condition.values)
    return found


def _wanted(statement: Statement, statements: Sequence[Statement]) -> dict[str, list[str]]:
    """What the statement names; for keys that it does not, what any other names: a Deny compares with those."""
    own = wanted_by(statement)
    for other in statements:
        for condition in other.conditions:
            if is_attestation_key(condition.key):
                own.setdefault(condition.key.lower(), [value.lower() for value in condition.values])
    return own


def is_positive(condition: Condition) -> bool:
    """Whether a condition names what is accepted, rather than what is not."""
    try:
        return split_operator(condition.operator)[1] in ("StringEquals", "StringEqualsIgnoreCase", "StringLike")
    except PolicyError:
        return False


def _index(key: str) -> int:
    return 0 if key == _IMAGE else int(key.removeprefix(_PCR))


def _right(wanted: Mapping[str, Sequence[str]], index: int) -> dict[str, str]:
    values = wanted.get(f"{_PCR}{index}")
    return {f"{_PCR}{index}": values[0]} if values else {}
