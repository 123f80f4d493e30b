"""(4) Images on hosts, as the hosts' agents tell: a host's own word, which finds mistakes and proves nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nitrokit.gate.locks import LockedImage, Pcrs, Standing, differences, place
from nitrokit.gate.report import Comparison, Place
from nitrokit.gate.templates import pcrs_of
from nitrokit.handlers.hosts import Output


def compare_host(output: Output, image: LockedImage, time: datetime) -> Comparison:
    """What a host says that it was configured to run, and whether the image on its disk measures so. It prints two lines: the agent's configuration, and its ``verify``."""

    def found(rule: str, reason: str, details: tuple[str, ...] = (), **more: Any) -> Comparison:
        return Comparison(Place.HOST, f"{image.name} on {output.instance_id}", rule, reason, image.name, details, **more)

    if output.stdout is None:
        return found("unreachable", output.reason or "no answer")
    configuration, _, verified = output.stdout.strip().partition("\n")
    wanted = _wanted(configuration, image.name)
    if wanted is None:
        return found("unreachable", f"the host's answer holds no configuration of {image.name}", (output.stdout[:300],))
    if not _is_as_configured(verified):
        return found("host-image", "the image on the host's disk is not the one that it was configured with", (verified[:600],))
    placed = place(wanted, [image], time)
    if placed.standing is Standing.UNKNOWN:
        return found("host-image", "the host is configured to run an image that the lock does not know", differences(wanted, [image]))
    if placed.standing is Standing.PAST:
        return found("set-past-date", "the host is configured to run a set whose date has passed", until=placed.until)
    if placed.standing is Standing.RETIRING:
        return found("planned-rollover", "the host is configured to run a set that retires", until=placed.until)
    return found("agrees", "the host says that it has the current image")


def _wanted(configuration: str, name: str) -> Pcrs | None:
    try:
        value = json.loads(configuration)
        wanted = value["measurements"] if value["name"] == name else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return pcrs_of(wanted) or None if isinstance(wanted, Mapping) else None


def _is_as_configured(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("measurements") == "as locked"
