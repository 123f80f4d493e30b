"""Props are checked where they are given: what they are, and that synthesis knows what it computes with. Other props take tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aws_cdk import Duration, IResource, Stack, Token
from constructs import IConstruct


def need_known(**values: object) -> None:
    """Each value by the prop's name; of a list that is known each element. Raises ValueError for one that only the deployment knows."""
    for name, value in values.items():
        elements = value if isinstance(value, list | tuple) else ()
        if any(map(is_token, [value, *elements])):
            raise ValueError(f"{name} is a token, known at deployment alone; expected a plain value: the synthesis computes with it")


def need(kind: Any, **values: object) -> None:
    """Each value by the prop's name. ``kind``: a class, a tuple of them, or an interface of the CDK (``kms.IKey``). Raises TypeError for another type: by a wrong one Python or jsii would fail
    far from here.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for name, value in values.items():
        if not any(_is_a(value, one) for one in kinds):
            wanted = " or ".join(one.__name__ for one in kinds)
            raise TypeError(f"{name} is {value!r:.80}, of type {type(value).__name__}; expected {wanted}")


def need_type(kind: Any, **values: object) -> None:
    """The same, and None passes."""
    need(kind, **{name: value for name, value in values.items() if value is not None})


def need_each(kind: Any, **values: object) -> None:
    """Each value is a list or tuple of ``kind``. Raises TypeError."""
    for name, value in values.items():
        need((list, tuple), **{name: value})
        for one in value if isinstance(value, list | tuple) else ():
            need(kind, **{name: one})


def need_within(allowed: range, **values: object) -> None:
    """Each value is a whole number that is ``allowed``; tokens pass. Raises TypeError or ValueError."""
    for name, value in values.items():
        if (type(value) is int and value in allowed) or is_token(value):
            continue
        need(int, **{name: value})
        raise ValueError(f"{name} {value} is out of range; expected {allowed.start} to {allowed.stop - 1}")


def need_one_environment(here: IConstruct, there: IConstruct) -> None:
    """Both are of one account and Region, as far as synthesis knows: what is reached by a name or tag alone is not found from another one, and the CDK sees no reference. Raises ValueError."""
    ours, theirs = Stack.of(here), Stack.of(there)
    if differ(ours.account, theirs.account) or differ(ours.region, theirs.region):
        raise ValueError(
            f"{here.node.path} is in {_place(ours)}, and {there.node.path} in {_place(theirs)}; expected one account and Region"
        )


def need_one_region(here: IConstruct, used: IResource) -> None:
    """``used`` is of this Region, as far as synthesis knows: its service is asked here. Raises ValueError."""
    ours, theirs = Stack.of(here).region, used.env.region
    if differ(ours, theirs):
        raise ValueError(f"{used.node.path} is of {theirs}, and {here.node.path} of {ours}; expected one Region")


def differ(one: str, other: str) -> bool:
    """As far as synthesis knows."""
    return one != other and not (is_token(one) or is_token(other))


def _place(stack: Stack) -> str:
    return "/".join("any" if is_token(one) else one for one in (stack.account, stack.region))


def _is_a(value: object, kind: Any) -> bool:
    """Interfaces of the CDK are protocols that ``isinstance`` does not take: what has their methods is one. Not their properties, where there are methods: jsii would fetch those."""
    if not getattr(kind, "_is_protocol", False):
        return isinstance(value, kind)
    members = {name: callable(one) for name, one in vars(kind).items() if not name.startswith("_")}
    methods = [name for name, is_method in members.items() if is_method]
    return all(hasattr(type(value), name) or hasattr(value, name) for name in methods or members)


def seconds(name: str, duration: Duration, allowed: range) -> int:
    """A duration in seconds. Raises ValueError for one that is a token or not ``allowed``."""
    need(Duration, **{name: duration})
    need_known(**{name: duration})
    found = duration.to_seconds(integral=False)
    if int(found) != found or int(found) not in allowed:
        raise ValueError(
            f"{name} {found:.10g} s is out of range; expected {allowed.start} to {allowed.stop - 1} s, in whole {'minutes' if allowed.step == 60 else 'seconds'}"
        )
    return int(found)


def is_token(value: object) -> bool:
    """Whether a text, number, duration or whole list is known at deployment alone."""
    if isinstance(value, Duration):
        return value.is_unresolved()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Token.is_unresolved(list(value))
    return isinstance(value, str | int | float) and Token.is_unresolved(value)
