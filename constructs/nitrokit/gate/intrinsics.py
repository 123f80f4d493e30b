"""CloudFormation's functions in a template, resolved as far as names are known. Source: CloudFormation User Guide "Intrinsic function reference"."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Names = Callable[[str], str | None]
"""What a name stands for: ``Logical``, ``Logical.Attribute``, a pseudo parameter or ``import:Export``; None where nobody knows."""

_VARIABLE = re.compile(r"\$\{([^!][^}]*)\}")


def resolve(value: Any, names: Names) -> Any:
    """The value with Ref, Fn::GetAtt, Fn::Join, Fn::Sub and Fn::ImportValue replaced. What is not known stays as a text in angle brackets (``is_known`` tells)."""
    if isinstance(value, list):
        return [resolve(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((function, argument),) = value.items()
        if (handler := _FUNCTIONS.get(function)) is not None:
            return handler(argument, names)
        if function.startswith("Fn::"):
            return _unknown(f"{function} {json.dumps(argument)}")
    return {key: resolve(one, names) for key, one in value.items()}


def is_known(value: Any) -> bool:
    """Whether nothing in a resolved value stayed unknown."""
    return _MARK not in json.dumps(value)


_MARK = "<unknown "


def _unknown(what: str) -> str:
    return f"{_MARK}{what}>"


def _ref(argument: Any, names: Names) -> str:
    return _named(str(argument), names)


def _get_att(argument: Any, names: Names) -> str:
    return _named(argument if isinstance(argument, str) else ".".join(map(str, argument)), names)


def _import(argument: Any, names: Names) -> str:
    return _named(f"import:{_text(resolve(argument, names))}", names)


def _join(argument: Any, names: Names) -> Any:
    if not isinstance(argument, list) or len(argument) != 2 or not isinstance(argument[1], list):
        return _unknown(f"Fn::Join {argument!r}")
    return str(argument[0]).join(_text(resolve(one, names)) for one in argument[1])


def _sub(argument: Any, names: Names) -> str:
    text, given = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})
    known: Mapping[str, Any] = given if isinstance(given, dict) else {}
    return _VARIABLE.sub(lambda found: _text(resolve(known[found[1]], names)) if found[1] in known else _named(found[1], names), str(text))


def _named(name: str, names: Names) -> str:
    found = names(name)
    return _unknown(name) if found is None else found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _unknown(repr(value))


_FUNCTIONS: Mapping[str, Callable[[Any, Names], Any]] = {
    "Ref": _ref,
    "Fn::GetAtt": _get_att,
    "Fn::Join": _join,
    "Fn::Sub": _sub,
    "Fn::ImportValue": _import,
}
