"""A policy as it stands in a CloudFormation template, made concrete enough to be reasoned about before it is deployed.

Source: CloudFormation User Guide "Intrinsic function reference" and "Pseudo parameters reference". What is known at deployment alone gets a stand-in: in an attestation condition a value that
nothing else has, elsewhere the ARN of a role of its own, so that a condition on it still tells somebody from everybody.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.core.key_policy.evaluate import ATTESTATION_PREFIX

_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")
_NO_VALUE = {"Ref": "AWS::NoValue"}
_LONGEST_ROLE = 512 + 64  # a role's path and name (IAM User Guide, "IAM and AWS STS quotas")


@dataclass(frozen=True)
class Environment:
    """Where a template is deployed to, as far as it is known; the defaults stand in for what is not."""

    account: str = "123456789012"
    partition: str = "aws"
    region: str = "us-east-1"

    def pseudo(self, name: str) -> str | None:
        """A pseudo parameter's value."""
        known = {"AWS::AccountId": self.account, "AWS::Partition": self.partition, "AWS::Region": self.region}
        return known.get(name)


def concrete(value: Any, environment: Environment) -> Any:
    """``value`` of a template without intrinsic functions. Of ``Fn::If``, all alternatives: what any of them lets through may be let through."""
    return _walk(value, environment, lambda text: f"arn:{environment.partition}:iam::{environment.account}:role/{text}")


def longest(value: Any) -> Any:
    """``value`` with each unknown as long as it can become: for checks of size, on the safe side."""
    environment = Environment(partition="aws-us-gov", region="ap-southeast-99")
    return _walk(value, environment, lambda _: f"arn:aws-us-gov:iam::123456789012:role/{'x' * _LONGEST_ROLE}")


_Opaque = Callable[[str], str]


def _measurement(text: str) -> str:
    return hashlib.sha384(text.encode()).hexdigest()


def _walk(value: Any, environment: Environment, opaque: _Opaque) -> Any:
    if isinstance(value, list):
        return _flat([_walk(one, environment, opaque) for one in value if one != _NO_VALUE])
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((name, argument),) = value.items()
        if name == "Ref" or name.startswith("Fn::"):
            return _function(name, argument, environment, opaque)
    return {
        key: _walk(one, environment, _measurement if str(key).lower().startswith(ATTESTATION_PREFIX) else opaque)
        for key, one in value.items()
        if one != _NO_VALUE
    }


def _function(name: str, argument: Any, environment: Environment, opaque: _Opaque) -> Any:
    if name == "Fn::If" and isinstance(argument, list) and len(argument) == 3:
        return _flat([_walk(one, environment, opaque) for one in argument[1:] if one != _NO_VALUE])
    if name == "Fn::Join" and isinstance(argument, list) and len(argument) == 2 and isinstance(argument[1], list):
        return str(argument[0]).join(str(_walk(one, environment, opaque)) for one in argument[1])
    if name == "Fn::Sub":
        return _substituted(argument, environment, opaque)
    known = environment.pseudo(argument) if name == "Ref" and isinstance(argument, str) else None
    return known if known is not None else opaque(_name(argument))


def _substituted(argument: Any, environment: Environment, opaque: _Opaque) -> str:
    text, own = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})

    def value(found: re.Match[str]) -> str:
        name = found[2]
        if found[1]:
            return f"${{{name}}}"
        if isinstance(own, Mapping) and name in own:
            return str(_walk(own[name], environment, opaque))
        known = environment.pseudo(name)
        return known if known is not None else opaque(name)

    return _VARIABLE.sub(value, str(text))


def _name(argument: Any) -> str:
    """A stand-in's name: the resource's, where there is one."""
    if isinstance(argument, list) and len(argument) == 2 and argument[1] == "Arn":
        return str(argument[0])
    text = argument if isinstance(argument, str) else json.dumps(argument, sort_keys=True)
    return re.sub(r"[^A-Za-z0-9+=,.@_-]", "-", text)


def _flat(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]
