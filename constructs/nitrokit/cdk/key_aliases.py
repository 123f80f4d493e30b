"""The aliases that an app gives to a key, in whichever of its stacks; those that are made later included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import jsii
from aws_cdk import IListProducer, IResolveContext, Lazy, Reference, Stack, Tokenization
from aws_cdk import aws_kms as kms

from nitrokit.cdk.enclave_key import EnclaveKey


def aliases_of(key: EnclaveKey) -> list[str]:
    """Their names, with ``alias/``, sorted. To be called at synthesis, when all are made."""
    made = [one for one in key.node.root.node.find_all() if isinstance(one, kms.CfnAlias)]
    return sorted(one.alias_name for one in made if _leads_to(one, key))


def _leads_to(alias: kms.CfnAlias, key: EnclaveKey) -> bool:
    named = Tokenization.reverse(alias.target_key_id, fail_concat=False)
    if isinstance(named, Reference):
        # By its construct: in a stack of the same shape another key has the same logical id.
        return bool(named.target.node.path == cast("kms.CfnKey", key.node.default_child).node.path)
    stack = Stack.of(key)
    return Stack.of(alias) is stack and stack.resolve(alias.target_key_id) in (stack.resolve(key.key_arn), stack.resolve(key.key_id))


def arns_with_aliases(keys: Sequence[EnclaveKey]) -> list[str]:
    """The ARNs of keys and of all their aliases, as a token."""
    return Lazy.uncached_list(_Arns(keys))


@jsii.implements(IListProducer)
class _Arns:
    def __init__(self, keys: Sequence[EnclaveKey]) -> None:
        self._keys = keys

    @jsii.member(jsii_name="produce")
    def produce(self, context: IResolveContext) -> list[str]:
        aliases = [Stack.of(key).format_arn(service="kms", resource=name) for key in self._keys for name in aliases_of(key)]
        return [*(key.key_arn for key in self._keys), *aliases]
