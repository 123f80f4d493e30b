"""What is deployed: the stacks' keys, hosts and enclaves, and keys named by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from nitrokit.core.attestation import ChainCache
from nitrokit.gate.enclaves import Expected, Judge
from nitrokit.gate.fleets import Enclave, enclaves_of
from nitrokit.gate.hosts import compare_host
from nitrokit.gate.keys import Key, compare_key, keys_of
from nitrokit.gate.locks import LockedImage
from nitrokit.gate.report import Comparison, Place
from nitrokit.gate.run import Plan
from nitrokit.gate.stack import Stack, read_stack
from nitrokit.handlers.hosts import Hosts
from nitrokit.handlers.settings import Fleet

_AWS = (ClientError, BotoCoreError)


def compare_deployed(plan: Plan, time: datetime) -> Iterator[Comparison]:
    """Every place of every stack that was asked for. A stack that cannot be read, and one without the thing asked for, is ``unreachable``."""
    for key in plan.keys:
        yield from compare_key(plan.client("kms"), Key(key), plan.images, time)
    for name in plan.stacks:
        try:
            stacks = list(_with_nested(plan.client("cloudformation"), name))
        except _AWS as error:
            yield from (Comparison(place, name, "unreachable", f"the stack cannot be read: {error}") for place in plan.places)
            continue
        for place in plan.places:
            found = False
            for one in (one for stack in stacks for one in _AT[place](plan, stack, time)):
                found = True
                yield one
            if not found:
                yield Comparison(place, name, "unreachable", f"the stack has no {place} to compare")


def _with_nested(cloudformation: Any, name: str) -> Iterator[Stack]:
    """The stack, and those nested in it. Raises botocore's errors."""
    stack = read_stack(cloudformation, name)
    yield stack
    for _, nested, _ in stack.resources("AWS::CloudFormation::Stack"):
        yield from _with_nested(cloudformation, nested)


def _keys(plan: Plan, stack: Stack, time: datetime) -> Iterator[Comparison]:
    for key in keys_of(stack):
        yield from compare_key(plan.client("kms"), key, plan.images, time)


def _enclaves(plan: Plan, stack: Stack, time: datetime) -> Iterator[Comparison]:
    """Documents are judged at the time at which they come, which may be long after ``time``."""
    judge = Judge(plan.trust_anchor, ChainCache())

    def compare(enclave: Enclave, image: LockedImage, hosts: Hosts, fleet: Fleet) -> Iterator[Comparison]:
        expected = Expected(image, stack.region, enclave.role_arn)
        return judge.compare(hosts.ask(fleet, hosts.of(fleet)), expected, plan.clock)

    return _each(plan, stack, Place.ENCLAVE, lambda one: one.attest, compare)


def _hosts(plan: Plan, stack: Stack, time: datetime) -> Iterator[Comparison]:
    def compare(enclave: Enclave, image: LockedImage, hosts: Hosts, fleet: Fleet) -> Iterator[Comparison]:
        outputs = hosts.run(fleet.document_name, {}, hosts.of(fleet))
        return (compare_host(output, image, time) for output in outputs)

    return _each(plan, stack, Place.HOST, lambda one: one.status, compare)


_Compare = Callable[[Enclave, LockedImage, Hosts, Fleet], Iterator[Comparison]]


def _each(plan: Plan, stack: Stack, place: Place, document: Callable[[Enclave], str | None], compare: _Compare) -> Iterator[Comparison]:
    """Every enclave of the stack, on all its hosts."""
    images = {image.name: image for image in plan.images}
    for enclave in enclaves_of(stack):
        image, asked_by = images.get(enclave.name), document(enclave)
        if image is None:
            yield Comparison(place, enclave.name, "unknown-set", "the stack runs an enclave whose lock was not named")
        elif asked_by is None:
            yield Comparison(place, enclave.name, "unreachable", "the stack has no document to ask its hosts by", image.name)
        else:
            fleet = Fleet(enclave.name, asked_by, enclave.role_arn or "", enclave.targets, image.values)
            found = False
            try:
                for one in compare(enclave, image, Hosts(plan.client("ssm"), plan.client("ec2")), fleet):
                    found = True
                    yield one
            except _AWS as error:
                found = True
                yield Comparison(place, enclave.name, "unreachable", f"its hosts cannot be asked: {error}", image.name)
            if not found:
                yield Comparison(place, enclave.name, "unreachable", "no instance of it is running", image.name)


_AT: Mapping[Place, Callable[[Plan, Stack, datetime], Iterator[Comparison]]] = {
    Place.KEY: _keys,
    Place.HOST: _hosts,
    Place.ENCLAVE: _enclaves,
}
