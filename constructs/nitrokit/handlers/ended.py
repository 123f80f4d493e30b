"""What is kept of instances that have ended: parameters with their state, and verdicts. A parent puts its own parameter (nitrokit.host.publish); when it has gone, nobody else would
take it away, and an account holds 10,000 (AWS General Reference "AWS Systems Manager endpoints and quotas").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from nitrokit.handlers.settings import Fleet
from nitrokit.handlers.triggers import INSTANCE

QUIET = timedelta(hours=1)
"""What is younger stays: EC2 may not tell yet of an instance that has just started (Amazon EC2 User Guide "Eventual consistency in the Amazon EC2 API")."""
_DELETED, _ASKED = 10, 200
"""Names of one DeleteParameters (Systems Manager API Reference); values of one filter (EC2 API Reference DescribeInstances)."""


def forget_ended(ssm: Any, ec2: Any, fleets: Iterable[Fleet], now: datetime, forget_verdict: Callable[[str, str], None]) -> list[str]:
    """Delete what instances that EC2 calls terminated, or knows no more, have left below the fleets' ``states``; returns the parameters' names. ``forget_verdict``: an enclave's on an
    instance, both by name. A stopped one may come back, and keeps its own. Errors of the clients pass through.
    """
    found = [(fleet.enclave, *one) for fleet in fleets if fleet.states for one in _quiet(ssm, fleet.states, now)]
    there = set(_there(ec2, sorted({instance_id for _, instance_id, _ in found})))
    ended = [one for one in found if one[1] not in there]
    # The parameters last: they are how the next run finds what this one did not come to.
    for enclave, instance_id, _ in ended:
        forget_verdict(enclave, instance_id)
    names = [name for _, _, name in ended]
    for start in range(0, len(names), _DELETED):
        ssm.delete_parameters(Names=names[start : start + _DELETED])
    return names


def _quiet(ssm: Any, states: str, now: datetime) -> Iterator[tuple[str, str]]:
    """(instance id, parameter) of those that were not written lately; others' parameters are none of ours."""
    for page in ssm.get_paginator("get_parameters_by_path").paginate(Path=states, Recursive=True):
        for one in page["Parameters"]:
            instance_id = one["Name"].removeprefix(f"{states}/").partition("/")[0]
            if INSTANCE.fullmatch(instance_id) and now - one["LastModifiedDate"] > QUIET:
                yield instance_id, one["Name"]


def _there(ec2: Any, instance_ids: Sequence[str]) -> Iterator[str]:
    """Those that EC2 knows and that are not terminated. By a filter: an id that EC2 does not know would make the whole call an error."""
    for start in range(0, len(instance_ids), _ASKED):
        named = {"Name": "instance-id", "Values": list(instance_ids[start : start + _ASKED])}
        for page in ec2.get_paginator("describe_instances").paginate(Filters=[named]):
            for reservation in page["Reservations"]:
                yield from (one["InstanceId"] for one in reservation["Instances"] if one["State"]["Name"] != "terminated")
