"""Condition operators, three-valued: a condition holds, does not hold, or depends on what the analysis does not know.

Source: IAM User Guide "IAM JSON policy elements: Condition operators" and "Condition keys with multiple values".
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from nitrokit.core.key_policy.document import Condition, PolicyError
from nitrokit.core.key_policy.patterns import Resolve, Unknown, matches

Context = Mapping[str, "str | Sequence[str] | Unknown"]
Lookup = Callable[[str], "Sequence[str] | Unknown | None"]
"""A condition key's values; None where it is absent."""

_Match = Callable[[str, str, "Resolve | None"], "bool | None"]


def every(answers: Iterable[bool | None]) -> bool | None:
    """Three-valued and."""
    found = list(answers)
    return False if False in found else None if None in found else True


def some(answers: Iterable[bool | None]) -> bool | None:
    """Three-valued or."""
    found = list(answers)
    return True if True in found else None if None in found else False


def negate(answer: bool | None) -> bool | None:
    """Three-valued not."""
    return None if answer is None else not answer


def _arn(pattern: str, value: str, resolve: Resolve | None) -> bool | None:
    """Each of the six parts by itself: a wildcard does not reach over a colon. What happens to something that has no six parts is written nowhere."""
    wanted, got = pattern.split(":", 5), value.split(":", 5)
    if len(wanted) != 6 or len(got) != 6:
        return None
    return every(matches(one, other, resolve=resolve) for one, other in zip(wanted, got, strict=True))


def _number(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error
    if not value.is_finite():
        raise ValueError(text)
    return value


def parse_date(text: str) -> datetime:
    """A date as IAM takes it, or seconds since 1970; without a zone it is UTC's. Raises ValueError."""
    if text.replace(".", "", 1).isdigit():
        try:
            return datetime.fromtimestamp(float(text), UTC)
        except (OverflowError, OSError) as error:
            raise ValueError(text) from error
    date = datetime.fromisoformat(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _compared(parse: Callable[[str], object], holds: Callable[[object, object], bool]) -> _Match:
    def match(pattern: str, value: str, _: Resolve | None) -> bool:
        try:
            wanted = parse(pattern)
        except ValueError as error:
            raise PolicyError("value", "a condition value is not of its operator's type", got=pattern[:80]) from error
        try:
            return holds(parse(value), wanted)
        except (ValueError, TypeError):
            return False  # what the request brought is of another type: it does not match

    return match


def _ordered(parse: Callable[[str], object]) -> dict[str, tuple[_Match, bool]]:
    return {
        "Equals": (_compared(parse, lambda got, wanted: got == wanted), True),
        "NotEquals": (_compared(parse, lambda got, wanted: got == wanted), False),
        "LessThan": (_compared(parse, lambda got, wanted: got < wanted), True),  # type: ignore[operator]
        "LessThanEquals": (_compared(parse, lambda got, wanted: got <= wanted), True),  # type: ignore[operator]
        "GreaterThan": (_compared(parse, lambda got, wanted: got > wanted), True),  # type: ignore[operator]
        "GreaterThanEquals": (_compared(parse, lambda got, wanted: got >= wanted), True),  # type: ignore[operator]
    }


def _in_network(got: object, wanted: object) -> bool:
    return isinstance(got, ipaddress.IPv4Network | ipaddress.IPv6Network) and got.subnet_of(wanted)  # type: ignore[arg-type]


_EQUAL: _Match = lambda pattern, value, resolve: matches(pattern, value, wildcards=False, resolve=resolve)  # noqa: E731
_EQUAL_FOLDED: _Match = lambda pattern, value, resolve: matches(pattern, value, wildcards=False, ignore_case=True, resolve=resolve)  # noqa: E731
_LIKE: _Match = lambda pattern, value, resolve: matches(pattern, value, resolve=resolve)  # noqa: E731
_ADDRESS = _compared(lambda text: ipaddress.ip_network(text, strict=False), _in_network)

OPERATORS: dict[str, tuple[_Match, bool]] = {
    "StringEquals": (_EQUAL, True),
    "StringNotEquals": (_EQUAL, False),
    "StringEqualsIgnoreCase": (_EQUAL_FOLDED, True),
    "StringNotEqualsIgnoreCase": (_EQUAL_FOLDED, False),
    "StringLike": (_LIKE, True),
    "StringNotLike": (_LIKE, False),
    "ArnEquals": (_arn, True),
    "ArnNotEquals": (_arn, False),
    "ArnLike": (_arn, True),
    "ArnNotLike": (_arn, False),
    "Bool": (_compared(_boolean, lambda got, wanted: got == wanted), True),
    "BinaryEquals": (_compared(_binary, lambda got, wanted: got == wanted), True),
    "IpAddress": (_ADDRESS, True),
    "NotIpAddress": (_ADDRESS, False),
    **{f"Numeric{name}": operator for name, operator in _ordered(_number).items()},
    **{f"Date{name}": operator for name, operator in _ordered(parse_date).items()},
}
"""Operator → (one pattern against one value, whether it is positive). A negated one holds when no pattern matches."""


def split_operator(operator: str) -> tuple[str, str, bool]:
    """Quantifier ("", ForAnyValue, ForAllValues), name, whether …IfExists. Raises PolicyError for an operator that is not known."""
    quantifier, _, name = operator.rpartition(":")
    plain = name.removesuffix("IfExists")
    known = plain in OPERATORS or (name == "Null" and quantifier == "")
    if not known or quantifier not in ("", "ForAnyValue", "ForAllValues"):
        raise PolicyError(
            "operator",
            "condition operator not supported",
            got=operator[:80],
            expected=", ".join([*OPERATORS, "Null"]),
            do="use a supported operator: what is not understood is refused",
        )
    return quantifier, plain, name != plain


def holds(condition: Condition, lookup: Lookup, *, variables: bool) -> bool | None:
    """Whether a condition holds; None where that depends on an unknown value. Raises PolicyError."""
    quantifier, name, if_exists = split_operator(condition.operator)
    values = lookup(condition.key)
    if name == "Null":
        return _null(condition, values)
    match, positive = OPERATORS[name]
    if isinstance(values, Unknown):
        return None
    if values is None:
        # An absent key: negated operators, …IfExists and ForAllValues match; all others do not, ForAnyValue never.
        return quantifier == "ForAllValues" or (quantifier == "" and (if_exists or not positive))
    if quantifier == "" and len(values) != 1:
        return None  # the guide wants a set operator for a key with several values
    resolve = resolver(lookup) if variables else None
    answers = [_one(match, positive, condition.values, value, resolve) for value in values]
    return some(answers) if quantifier == "ForAnyValue" else every(answers)


def _one(match: _Match, positive: bool, patterns: Sequence[str], value: str, resolve: Resolve | None) -> bool | None:
    answer = some(match(pattern, value, resolve) for pattern in patterns)
    return answer if positive else negate(answer)


def _null(condition: Condition, values: Sequence[str] | Unknown | None) -> bool | None:
    wants_absent = {value.lower() for value in condition.values}
    if not wants_absent <= {"true", "false"}:
        raise PolicyError("condition", "Null takes true or false", got=", ".join(condition.values)[:80])
    return None if isinstance(values, Unknown) else ("true" if values is None else "false") in wants_absent


def resolver(lookup: Lookup) -> Resolve:
    """Policy variables from condition keys."""

    def resolve(key: str) -> str | Unknown | None:
        values = lookup(key)
        if values is None or isinstance(values, Unknown):
            return values
        return values[0] if len(values) == 1 else None  # a key with several values cannot stand in a variable

    return resolve
