"""CloudFormation's functions in a template, resolved as far as names are known, or stood in for. Source: CloudFormation User Guide "Intrinsic function reference"."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Names = Callable[[str], str | None]
"""What a name stands for: ``Logical``, ``Logical.Attribute``, a pseudo parameter or ``import:Export``; None where nobody knows."""

_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")
NO_VALUE = {"Ref": "AWS::NoValue"}
_MARK = "<unknown "
_MARKED = re.compile(rf"{_MARK}([^<>]*)>")
_ATTESTATION = "kms:recipientattestation:"
_LONGEST_ROLE = 512 + 64  # a role's path and name (IAM User Guide, "IAM and AWS STS quotas")


@dataclass(frozen=True)
class Environment:
    """Where a template is deployed to, as far as it is known; the defaults stand in for what is not. ``parameters``: the template's own, by their defaults."""

    account: str = "123456789012"
    partition: str = "aws"
    region: str = "us-east-1"
    parameters: Mapping[str, str] = field(default_factory=dict)

    def pseudo(self, name: str) -> str | None:
        """A parameter's value, a pseudo one's or a default."""
        known = {"AWS::AccountId": self.account, "AWS::Partition": self.partition, "AWS::Region": self.region}
        return known.get(name) or self.parameters.get(name)


def resolve(value: Any, names: Names, *, every_branch: bool = False) -> Any:
    """The value with Ref, Fn::GetAtt, Fn::Join, Fn::Sub and Fn::ImportValue replaced. What is not known stays as a text in angle brackets (``is_known`` tells).

    ``every_branch``: of Fn::If, all alternatives, where it stands in a list as further elements of it.
    """
    return _Resolver(names, every_branch).resolve(value)


def alternatives(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The value without Fn::If, once for each way in which its conditions can turn out: (outcomes, the value), e.g. ``("Production", "not Audit")``.

    Each condition doubles their number: take some, and no more.
    """
    name = _condition(value)
    if name is None:
        yield (), value
        return
    for branch, outcome in ((1, name), (2, f"not {name}")):
        for further, found in alternatives(_under(value, name, branch)):
            yield (outcome, *further), found


def _is_conditional(value: Any) -> bool:
    given = value.get("Fn::If") if isinstance(value, dict) and len(value) == 1 else None
    return isinstance(given, list) and len(given) == 3 and isinstance(given[0], str)


def _condition(value: Any) -> str | None:
    """The first condition, the outermost first."""
    if _is_conditional(value):
        return str(value["Fn::If"][0])
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((name for one in below if (name := _condition(one)) is not None), None)


def _under(value: Any, name: str, branch: int) -> Any:
    if _is_conditional(value) and value["Fn::If"][0] == name:
        return _under(value["Fn::If"][branch], name, branch)
    if isinstance(value, dict):
        return {key: _under(one, name, branch) for key, one in value.items()}
    return [_under(one, name, branch) for one in value] if isinstance(value, list) else value


def is_known(value: Any) -> bool:
    """Whether nothing in a resolved value stayed unknown."""
    return _MARK not in json.dumps(value)


def concrete(value: Any, environment: Environment) -> Any:
    """A policy of a template as it can be reasoned about before it is deployed; of each Fn::If all branches side by side (``alternatives`` takes them apart).

    What is known at deployment alone gets a stand-in: in an attestation condition a value that nothing else has, elsewhere the ARN of a role of its own, so that a condition on it
    still tells somebody from everybody.
    """
    return _stood_in(
        resolve(value, environment.pseudo, every_branch=True),
        lambda name: f"arn:{environment.partition}:iam::{environment.account}:role/{name}",
    )


def longest(value: Any) -> Any:
    """``value`` with each unknown as long as it can become: for checks of size, on the safe side."""
    widest = Environment(partition="aws-us-gov", region="ap-southeast-99")
    return _stood_in(
        resolve(value, widest.pseudo, every_branch=True), lambda _: f"arn:aws-us-gov:iam::123456789012:role/{'x' * _LONGEST_ROLE}"
    )


class _Branches(list[Any]):
    """The alternatives of an Fn::If."""


@dataclass(frozen=True)
class _Resolver:
    names: Names
    every_branch: bool

    def resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            found = [self.resolve(one) for one in value if one != NO_VALUE]
            return [one for item in found for one in (item if isinstance(item, _Branches) else [item])]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name, argument)
        return {key: self.resolve(one) for key, one in value.items() if one != NO_VALUE}

    def _function(self, name: str, argument: Any) -> Any:
        match name, argument:
            case "Ref", _:
                return self._named(str(argument))
            case "Fn::GetAtt", list():
                return self._named(".".join(map(str, argument)))
            case "Fn::GetAtt", _:
                return self._named(str(argument))
            case "Fn::ImportValue", _:
                return self._named(f"import:{_text(self.resolve(argument))}")
            case "Fn::Join", [separator, list(parts)]:
                return str(separator).join(_text(self.resolve(one)) for one in parts)
            case "Fn::Sub", _:
                return self._substituted(argument)
            case "Fn::If", [_, *branches] if self.every_branch:
                return _Branches(one for branch in self.resolve(branches) for one in (branch if isinstance(branch, list) else [branch]))
        return _unknown(f"{name} {json.dumps(argument, sort_keys=True)}")

    def _substituted(self, argument: Any) -> str:
        text, given = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})
        own = given if isinstance(given, dict) else {}

        def value(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            return _text(self.resolve(own[name])) if name in own else self._named(name)

        return _VARIABLE.sub(value, str(text))

    def _named(self, name: str) -> str:
        found = self.names(name)
        return _unknown(name) if found is None else found


def _unknown(what: str) -> str:
    return f"{_MARK}{re.sub('[<>]', '-', what)}>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _unknown(repr(value))


def _stood_in(value: Any, name: Callable[[str], str], *, measured: bool = False) -> Any:
    """A resolved value with a stand-in for all that is not known. ``measured``: below an attestation key."""
    if isinstance(value, list):
        return [_stood_in(one, name, measured=measured) for one in value]
    if isinstance(value, Mapping):
        return {key: _stood_in(one, name, measured=measured or str(key).lower().startswith(_ATTESTATION)) for key, one in value.items()}
    if not isinstance(value, str) or _MARK not in value:
        return value
    return hashlib.sha384(value.encode()).hexdigest() if measured else _MARKED.sub(lambda found: name(_as_name(found[1])), value)


def _as_name(what: str) -> str:
    return re.sub(r"[^A-Za-z0-9+=,.@_-]", "-", what.removesuffix(".Arn"))
