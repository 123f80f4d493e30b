"""Who could try to open data, and with which attestation documents: the cases that an analysis of a key policy goes through.

Sources: KMS Developer Guide "Condition keys for attested requests"; Nitro Enclaves User Guide "Cryptographic attestation" (debug mode: PCR0–2 zero; documents of debug-mode enclaves in
public repositories keep PCR3 and PCR4); EC2 User Guide "Amazon EC2 instance attestation" (NitroTPM).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from nitrokit.core.key_policy.conditions import split_operator
from nitrokit.core.key_policy.document import Condition, PolicyError, Statement
from nitrokit.core.key_policy.evaluate import ATTESTATION_PREFIX
from nitrokit.core.key_policy.patterns import Unknown, matches
from nitrokit.core.measurements import EMPTY_PCR2

ZERO = "00" * 48
_FOREIGN = "f0" * 48  # stands for a measurement that no policy names
_KEY = re.compile(rf"{ATTESTATION_PREFIX}(imagesha384|(?:pcr|nitrotpmpcr)(?:0|[1-9][0-9]?))")
_TPM = f"{ATTESTATION_PREFIX}nitrotpmpcr"
_IMAGE, _PCR = f"{ATTESTATION_PREFIX}imagesha384", f"{ATTESTATION_PREFIX}pcr"
_VALUE = re.compile("[0-9a-f]{96}")
_NOBODY = "000000000000"
ANYBODY = "any AWS principal, of any account"
_IMAGE_KEYS = (_IMAGE, f"{_PCR}0", f"{_PCR}1", f"{_PCR}2", f"{_PCR}8")
_ARN_KEYS, _ACCOUNT_KEYS = ("aws:principalarn",), ("aws:principalaccount", "kms:calleraccount")
_WILD = re.compile(r"[*?]")
_UNCERTAIN = re.compile(r"[*?]|\$\{")


@dataclass(frozen=True)
class Actor:
    """A principal that stands for all like it. ``label``: for people. ``vague``: condition keys whose value differs among those that it stands for, in a way that decides."""

    arn: str
    account: str
    kind: str
    label: str
    vague: frozenset[str] = frozenset()

    def context(self) -> dict[str, str]:
        """The condition keys that go with who one is. A session's or a unique id's role is not known from its name; a service is no role or user of any account."""
        if self.kind == "Service":
            return {
                "aws:PrincipalIsAWSService": "true",
                "aws:PrincipalArn": f"arn:aws:iam::{_NOBODY}:service/{self.arn}",
                "aws:PrincipalAccount": _NOBODY,
            }
        own = {"aws:PrincipalAccount": self.account, "kms:CallerAccount": self.account} if self.kind == "AWS" else {}
        known = {"aws:PrincipalIsAWSService": "false", **own, **({"aws:PrincipalArn": self.arn} if ":iam:" in self.arn else {})}
        return {key: value for key, value in known.items() if key.lower() not in self.vague}


def is_attestation_key(key: str) -> bool:
    """Whether KMS knows the key: PCR0–31, NitroTPMPCR0–23, ImageSha384; names are case-insensitive."""
    found = _KEY.fullmatch(key.lower())
    if found is None:
        return False
    number = int(found[1].rpartition("r")[2]) if found[1] != "imagesha384" else 0
    return number <= (23 if found[1].startswith("nitrotpm") else 31)


def actors(statements: Sequence[Statement], account: str, partition: str) -> list[Actor]:
    """One principal for each name in the policy and each one that a condition names, one of the account that is not named, a stranger, a service."""
    crowd = _Crowd(statements, account, partition)
    stranger = crowd.somebody(crowd.stranger, ANYBODY)
    if any(map(_UNCERTAIN.search, crowd.accounts)):
        stranger = replace(stranger, vague=stranger.vague | set(_ACCOUNT_KEYS))
    found = {
        "account": crowd.somebody(account, f"any principal of account {account}"),
        "stranger": stranger,
        "service": Actor("any.amazonaws.com", "", "Service", "any AWS service"),
    }
    return list((found | {f"{kind} {name}": crowd.named(kind, name) for kind, name in crowd.names}).values())


class _Crowd:
    """Whom a policy tells apart, by names and by conditions."""

    def __init__(self, statements: Sequence[Statement], account: str, partition: str) -> None:
        names = [one for statement in statements if statement.principals for one in statement.principals.names if one[1] != "*"]
        self._own, self._partition = account, partition
        arns, self.accounts = _compared(statements, _ARN_KEYS), _compared(statements, _ACCOUNT_KEYS)
        self._patterns = [one for one in arns if _UNCERTAIN.search(one)]
        # Two patterns can overlap, or one hold a name: whom they tell apart cannot be said by examples. One pattern of one account has those who fit, and those who do not.
        is_one = len(arns) == 1 and arns[0].split(":")[4:5] and arns[0].split(":")[4].isdigit()
        self._vague = frozenset(_ARN_KEYS) if self._patterns and not is_one else frozenset[str]()
        self._taken = {name for _, name in names} | set(arns)
        told = {*self._taken, *self.accounts}
        self.stranger = next(number for number in (f"{one:012d}" for one in count()) if not any(number in one for one in told))
        sure = [("AWS", one) for one in self.accounts if not _UNCERTAIN.search(one)]
        self.names = dict.fromkeys([*names, *(("AWS", one) for one in arns), *sure])

    def somebody(self, account: str, label: str) -> Actor:
        """Anybody of an account whom nothing names."""
        arns = [f"arn:{self._partition}:iam::{account}:{name}" for name in ("role/any", "user/any", "role/other", "user/other")]
        free = [arn for arn in arns if arn not in self._taken and not any(matches(one, arn, ignore_case=True) for one in self._patterns)]
        vague = self._vague if free else frozenset(_ARN_KEYS)
        return Actor((free or arns)[0], account, "AWS", label, vague)

    def named(self, kind: str, name: str) -> Actor:
        """The principal that a name, or a pattern of names, stands for."""
        parts = name.split(":", 5)
        if kind == "AWS" and name.isdigit():
            return self.somebody(name, f"any principal of account {name}")
        if kind != "AWS" or len(parts) != 6:
            return Actor(_WILD.sub("x", name), self._own, kind, name)
        own = parts[4] if parts[4].isdigit() else self._own
        if parts[5] == "root":
            return self.somebody(own, f"any principal of account {own}")
        arn = ":".join([*(_WILD.sub("x", part) for part in parts[:4]), own, _WILD.sub("x", parts[5])])
        return Actor(arn, own, kind, name, self._vague if _UNCERTAIN.search(name) else frozenset())


def _compared(statements: Sequence[Statement], keys: tuple[str, ...]) -> list[str]:
    """What conditions compare these keys with, each once."""
    found = (condition for statement in statements for condition in statement.conditions if condition.key.lower() in keys)
    return list(dict.fromkeys(value for condition in found for value in condition.values))


Document = Mapping[str, str | Unknown]


def documents(statements: Sequence[Statement], wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Document]]:
    """(finding, attestation context) pairs from the worst to the mildest: no document; then documents that whoever owns a parent can get.

    ``wanted``: what the Allow names. What such an adversary chooses is unknown, so that any condition on it may hold and no Deny surely does: the parent's role and instance
    (PCR3, PCR4), what the image extends (PCR16–31), and a value of which a pattern fixes a part (images can be made until one fits).
    """
    yield "unattested", {}
    free = {f"{_PCR}{index}": Unknown.UNKNOWN for index in range(32)} | {key: Unknown.UNKNOWN for key in _patterned(statements)}

    def document(**values: str) -> Document:
        named = {_IMAGE if name == "image" else f"{_PCR}{name[1:]}": value for name, value in values.items()}
        return {_IMAGE: _FOREIGN, **free, **{key: value for key, value in named.items() if key not in _patterned(statements)}}

    for signed in (ZERO, _FOREIGN):
        yield "any-image", document(image=_FOREIGN, p0=_FOREIGN, p1=_FOREIGN, p2=_FOREIGN, p8=signed)
    yield "debug-enclave", document(image=ZERO, p0=ZERO, p1=ZERO, p2=ZERO, p8=ZERO)
    for signed in (ZERO, _FOREIGN):
        yield "boot-only", document(image=_FOREIGN, p0=_FOREIGN, p2=_FOREIGN, p8=signed)
        yield "empty-application", document(image=_FOREIGN, p0=_FOREIGN, p2=EMPTY_PCR2.hex(), p8=signed)
    yield "signer-only", document(image=_FOREIGN, p0=_FOREIGN, p2=_FOREIGN)
    mixed = [key for key, values in wanted.items() if key in _IMAGE_KEYS and len(values) > 1]
    if len(mixed) > 1:
        yield "mixed-sets", {**free, **right_document(wanted), **{key: wanted[key][number % 2] for number, key in enumerate(mixed)}}
    yield from _tpm_documents(statements)


def _patterned(statements: Sequence[Statement]) -> set[str]:
    """Attestation keys that some condition compares with a pattern."""
    return {
        condition.key.lower()
        for statement in statements
        for condition in statement.conditions
        if is_attestation_key(condition.key)
        and "Like" in condition.operator
        and any(_WILD.search(value) and _can_fit(value) for value in condition.values)
    }


def _tpm_documents(statements: Sequence[Statement]) -> Iterator[tuple[str, Document]]:
    """A NitroTPM's documents: of another AMI, and of the right one with other boot arguments (PCR7 and PCR12 tell those)."""
    patterned = {key: Unknown.UNKNOWN for key in _patterned(statements)}
    foreign = {f"{_TPM}{index}": _FOREIGN for index in range(24)}
    yield "any-image", {**foreign, **patterned}
    boot = {f"{_TPM}{index}": Unknown.UNKNOWN for index in range(24) if index not in (7, 12)}
    yield "tpm-boot-arguments", {**foreign, **patterned, **boot}


def right_document(wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A document with the first accepted value everywhere."""
    foreign = {f"{_PCR}{index}": _FOREIGN for index in range(16)}
    return {**foreign, **{key: _instance(values[0]) for key, values in wanted.items()}}


def is_pcr_value(value: str) -> bool:
    """Whether this can be a value of KMS's: 96 lower-case hex digits."""
    return _VALUE.fullmatch(value) is not None


def _instance(value: str) -> str:
    """A measurement that fits what a policy names, a pattern perhaps; one that no policy names where none does."""
    if not _can_fit(value):
        return _FOREIGN
    missing = 96 - len(value.replace("*", ""))
    return value.replace("?", "0").replace("*", "0" * missing, 1).replace("*", "")


def _can_fit(pattern: str) -> bool:
    """Whether a pattern can match a PCR value at all."""
    fixed = pattern.replace("*", "")
    return set(fixed.lower()) <= set("0123456789abcdef?") and (len(fixed) == 96 or ("*" in pattern and len(fixed) < 96))


def wanted_by(statement: Statement) -> dict[str, list[str]]:
    """Attestation key (lower case) → the values that a statement's positive conditions name."""
    found: dict[str, list[str]] = {}
    for condition in statement.conditions:
        if is_attestation_key(condition.key) and is_positive(condition):
            found.setdefault(condition.key.lower(), []).extend(value.lower() for value in condition.values)
    return found


def is_positive(condition: Condition) -> bool:
    """Whether a condition names what is accepted, rather than what is not."""
    try:
        return split_operator(condition.operator)[1] in ("StringEquals", "StringEqualsIgnoreCase", "StringLike")
    except PolicyError:
        return False
