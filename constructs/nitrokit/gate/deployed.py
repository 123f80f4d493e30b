"""What is deployed: the stacks' keys, hosts and enclaves, and keys named by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from botocore.exceptions import BotoCoreError, ClientError

from nitrokit.gate.keys import Key, compare_key, keys_of
from nitrokit.gate.report import Comparison, Place
from nitrokit.gate.run import Plan
from nitrokit.gate.stack import Stack, read_stack


def compare_deployed(plan: Plan, time: datetime) -> Iterator[Comparison]:
    """Every place of every stack that was asked for. A stack that cannot be read, and one without the thing asked for, is ``unreachable``."""
    for key in plan.keys:
        yield from compare_key(plan.client("kms"), Key(key), plan.images, time)
    for name in plan.stacks:
        try:
            stack = read_stack(plan.client("cloudformation"), name)
        except (ClientError, BotoCoreError) as error:
            yield from (Comparison(place, name, "unreachable", f"the stack cannot be read: {error}") for place in plan.places)
            continue
        for place in plan.places:
            found = False
            for one in _AT[place](plan, stack, time):
                found = True
                yield one
            if not found:
                yield Comparison(place, name, "unreachable", f"the stack has no {place} to compare")


def _keys(plan: Plan, stack: Stack, time: datetime) -> Iterator[Comparison]:
    for key in keys_of(stack):
        yield from compare_key(plan.client("kms"), key, plan.images, time)


_AT = {Place.KEY: _keys}
