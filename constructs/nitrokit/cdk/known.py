"""What synthesis computes with cannot be left to the deployment. Other props take tokens."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration, Token


def need_known(**values: object) -> None:
    """Each value by the prop's name; of a list that is known each element. Raises ValueError for one that only the deployment knows."""
    for name, value in values.items():
        elements = value if isinstance(value, list | tuple) else ()
        if any(map(is_token, [value, *elements])):
            raise ValueError(f"{name} is a token, known at deployment alone; expected a plain value: the synthesis computes with it")


def need_type(kind: type | tuple[type, ...], **values: object) -> None:
    """Each value by the prop's name, None passes. Raises TypeError for another type: by a wrong one Python would fail far from here."""
    for name, value in values.items():
        if value is not None and not isinstance(value, kind):
            wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise TypeError(f"{name} is {value!r:.80}, of type {type(value).__name__}; expected {wanted}")


def seconds(name: str, duration: Duration, allowed: range) -> int:
    """A duration in seconds. Raises ValueError for one that is a token or not ``allowed``."""
    need_type(Duration, **{name: duration})
    need_known(**{name: duration})
    found = int(duration.to_seconds())
    if found not in allowed:
        raise ValueError(f"{name} {found} s is out of range; expected {allowed.start} to {allowed.stop - 1} s")
    return found


def is_token(value: object) -> bool:
    """Whether a text, number, duration or whole list is known at deployment alone."""
    if isinstance(value, Duration):
        return value.is_unresolved()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Token.is_unresolved(list(value))
    return isinstance(value, str | int | float) and Token.is_unresolved(value)
