"""What the monitor's functions are told of fleets and locks: Systems Manager parameters, as nitrokit.handlers.settings reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, cast

import jsii
from aws_cdk import IResolveContext, IStringProducer, Lazy, Names, Stack, Token
from aws_cdk import aws_kms as kms
from aws_cdk import aws_ssm as ssm
from constructs import Construct, IValidation

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.key_aliases import aliases_of
from nitrokit.cdk.monitor_function import MonitorFunction
from nitrokit.core.intrinsics import longest
from nitrokit.core.key_policy import PolicyError
from nitrokit.core.reference_values import ReferenceValues

_PARTS, _PART = 4, 8192 - 512
"""A key policy is larger than a parameter may be (8 KB: Systems Manager User Guide "Managing parameter tiers"), so that its statements stand in four."""


class MonitorSettings(Construct):
    """One parameter for each fleet, five for each key, below ``path``. ``version``: another one for other locks, so that a function that keeps what it read starts anew.

    Raises ValueError for two fleets of one name, and for an image that nobody can ask; at synthesis PolicyError for a policy that does not fit.
    """

    def __init__(self, scope: Construct, id: str, *, bootstraps: Sequence[EnclaveBootstrap], keys: Sequence[EnclaveKey] = ()) -> None:
        super().__init__(scope, id)
        self.name = Names.unique_resource_name(self, max_length=64, separator="-")
        self.path = f"/nitrokit/{self.name}"
        digest = hashlib.sha256()
        names = [bootstrap.image.name for bootstrap in bootstraps]
        if len(set(names)) != len(names):
            raise ValueError(f"two fleets have one name: {', '.join(names)}; expected an image of its own for each, or a monitor for each")
        for bootstrap in bootstraps:
            _need_controlled(bootstrap)
            digest.update(reference_values(bootstrap).to_json().encode())
            self._put("Fleet", f"fleets/{bootstrap.image.name}", Stack.of(self).to_json_string(_fleet(bootstrap)))
        for key in keys:
            for part in range(_PARTS):
                self._put("Key", f"keys/{self.name_of(key)}/{part}", Lazy.uncached_string(_Statements(key, part)))
            self._put("Key", f"keys/{self.name_of(key)}/aliases", Lazy.uncached_string(_Aliases(key)))
        self.version = digest.hexdigest()[:16]
        if keys:
            self.node.add_validation(_Check(keys))

    def _put(self, kind: str, name: str, value: str) -> None:
        # Intelligent: the standard tier ends at 4 KB.
        ssm.StringParameter(
            self,
            f"{kind}{name.partition('/')[2].replace('/', '')}",
            parameter_name=f"{self.path}/{name}",
            string_value=value,
            tier=ssm.ParameterTier.INTELLIGENT_TIERING,
        )

    @staticmethod
    def name_of(key: EnclaveKey) -> str:
        """What the functions call a key."""
        return str(Names.unique_resource_name(key, max_length=60, separator="-"))

    def allow_reading(self, function: MonitorFunction) -> None:
        """Let a function read them: the path is what GetParametersByPath is allowed on (Systems Manager User Guide "Restricting access to parameters")."""
        function.allow_all_below(
            "ssm:GetParametersByPath",
            service="ssm",
            resource="parameter",
            name=self.path[1:],
            reason="the parameters below the monitor's own path",
        )


def _need_controlled(bootstrap: EnclaveBootstrap) -> None:
    if not bootstrap.image.controlled:
        raise ValueError(
            f"{bootstrap.image.node.path} has another init than nitrokit's, so that its parent can ask it for no document; expected an image that attests on request: "
            "one of from_directory with nitrokit's init, or controlled=True for an EIF that has it. AttestationVerifier appraises documents that an app brings itself"
        )


def reference_values(bootstrap: EnclaveBootstrap) -> ReferenceValues:
    """What the lock of a fleet's image accepts."""
    return bootstrap.image.reference_values


def _fleet(bootstrap: EnclaveBootstrap) -> dict[str, Any]:
    targets = [{"key": one.key, "values": list(one.values)} for one in bootstrap.parent.association_targets]
    return {
        "name": bootstrap.image.name,
        "document": bootstrap.attest_document.ref,
        "host_role_arn": bootstrap.parent.role.role_arn,
        "targets": targets,
        "states": bootstrap.parameter,
        "reference": json.loads(reference_values(bootstrap).to_json()),
    }


@jsii.implements(IStringProducer)
class _Statements:
    """One part of a key's policy, once all grants on the key are known. Asked anew each time: a reference to another stack becomes an import only when the CDK has looked at all stacks."""

    def __init__(self, key: EnclaveKey, part: int) -> None:
        self._key, self._part = key, part

    @jsii.member(jsii_name="produce")
    def produce(self, context: IResolveContext) -> str:
        packed = _packed(self._key)
        own = packed[self._part] if self._part < len(packed) else []
        return Stack.of(self._key).to_json_string({"key": self._key.key_arn, "statements": _as_tokens(own)})


@jsii.implements(IStringProducer)
class _Aliases:
    """A key's aliases, once all are made."""

    def __init__(self, key: EnclaveKey) -> None:
        self._key = key

    @jsii.member(jsii_name="produce")
    def produce(self, context: IResolveContext) -> str:
        return Stack.of(self._key).to_json_string({"key": self._key.key_arn, "aliases": aliases_of(self._key)})


@jsii.implements(IValidation)
class _Check:
    """A policy that the guard cannot hold does not synthesise."""

    def __init__(self, keys: Sequence[EnclaveKey]) -> None:
        self._keys = keys

    @jsii.member(jsii_name="validate")
    def validate(self) -> list[str]:
        return [str(error) for key in self._keys if (error := _too_large(key)) is not None]


def _too_large(key: EnclaveKey) -> PolicyError | None:
    sizes = [_size(part) for part in _packed(key)]
    if len(sizes) <= _PARTS and max(sizes) <= _PART:
        return None
    return PolicyError(
        "guard-size",
        f"the policy of {key.node.path} is larger than its guard can hold",
        got=f"{sum(sizes)} bytes in {len(sizes)} parts, the largest of {max(sizes)}",
        expected=f"at most {_PARTS} parts of {_PART}, no statement cut in two",
        do="name fewer data owners, or owners with shorter ARNs (an account's root); retire sets of measurements; or leave the key out of keys=",
    )


def _packed(key: EnclaveKey) -> list[list[Any]]:
    resource = cast("kms.CfnKey", key.node.default_child)
    return pack(Stack.of(key).resolve(resource.key_policy)["Statement"])


def pack(statements: Sequence[Any]) -> list[list[Any]]:
    """The statements in their order, each list small enough for one parameter, whatever its references become."""
    parts: list[list[Any]] = [[]]
    for one in statements:
        if parts[-1] and _size([*parts[-1], one]) > _PART:
            parts.append([])
        parts[-1].append(one)
    return parts


def _size(statements: Sequence[Any]) -> int:
    """Bytes in JSON."""
    return len(json.dumps(longest(statements)))


def _as_tokens(value: Any) -> Any:
    """CloudFormation's functions as tokens again, so that they are resolved within a JSON text."""
    if isinstance(value, list):
        return [_as_tokens(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and next(iter(value)).startswith(("Ref", "Fn::")):
        return Token.as_any(value)
    return {name: _as_tokens(one) for name, one in value.items()}
