"""Matching of text with IAM's wildcards and policy variables; no pattern makes it more than linear in the text.

Sources: IAM User Guide "IAM JSON policy elements: Resource" (wildcards stay within an ARN's segment, but one that ends a segment), "IAM policy elements: Variables and tags".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum


class Wild(Enum):
    ANY = "*"
    ONE = "?"
    SEGMENT = "* within a segment"


class Unknown(Enum):
    """The value of a condition key that the analysis does not know: it may be anything, or absent."""

    UNKNOWN = "unknown"


Resolve = Callable[[str], "str | Unknown | None"]
"""A condition key's single value for a policy variable; None where it is absent."""
_Token = str | Wild

_SPECIAL = re.compile(r"[*?]|\$\{")
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_DEFAULT = re.compile(r"([^,]*?)\s*,\s*'([^']*)'\s*")


def matches(
    pattern: str, text: str, *, wildcards: bool = True, ignore_case: bool = False, segments: bool = False, resolve: Resolve | None = None
) -> bool | None:
    """Whether ``text`` fits ``pattern``; None where an unknown variable decides.

    ``resolve``: the values of policy variables (None: ``${…}`` is plain text). ``segments``: the pattern of an ARN, where a wildcard inside a segment does not reach over a colon.
    """
    if not _SPECIAL.search(pattern):  # most are plain text
        return pattern.lower() == text.lower() if ignore_case else pattern == text
    tokens = _tokens(pattern, wildcards, resolve)
    if isinstance(tokens, Unknown):
        return None
    if tokens is None:
        return False
    if segments:
        tokens = [Wild.SEGMENT if _inside(tokens, at) else one for at, one in enumerate(tokens)]
    if ignore_case:
        tokens, text = [one if isinstance(one, Wild) else one.lower() for one in tokens], text.lower()
    return _fits(tokens, text)


def _tokens(pattern: str, wildcards: bool, resolve: Resolve | None) -> list[_Token] | Unknown | None:
    """The pattern's characters; None where a variable has no value: such a statement does not match."""
    tokens: list[_Token] = []
    at = 0
    for found in _VARIABLE.finditer(pattern) if resolve else ():
        tokens += _plain(pattern[at : found.start()], wildcards)
        value = _variable(found[1], resolve) if resolve else None
        if value is None or isinstance(value, Unknown):
            return value
        tokens += list(value)
        at = found.end()
    return tokens + _plain(pattern[at:], wildcards)


def _variable(name: str, resolve: Resolve) -> str | Unknown | None:
    if name in ("*", "?", "$"):
        return name
    default = _DEFAULT.fullmatch(name)
    value = resolve(default[1] if default else name)
    return default[2] if default and value is None else value


def _plain(text: str, wildcards: bool) -> list[_Token]:
    return [Wild(one) if wildcards and one in "*?" else one for one in text]


def _inside(tokens: Sequence[_Token], at: int) -> bool:
    return tokens[at] is Wild.ANY and at + 1 < len(tokens) and tokens[at + 1] != ":"


def _fits(tokens: Sequence[_Token], text: str) -> bool:
    """All states of the pattern at once, as the bits of one number: bit n stands for "n tokens have been matched"."""
    places: dict[_Token, int] = {}
    for at, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << at
    anything, segment, one = (places.get(kind, 0) for kind in (Wild.ANY, Wild.SEGMENT, Wild.ONE))
    state = _skip(1, anything | segment)
    for character in text:
        stays = state & (anything if character == ":" else anything | segment)
        state = _skip(stays | (state & (places.get(character, 0) | one)) << 1, anything | segment)
    return bool(state >> len(tokens) & 1)


def _skip(state: int, stars: int) -> int:
    """A ``*`` may match nothing."""
    while (more := state | (state & stars) << 1) != state:
        state = more
    return state
