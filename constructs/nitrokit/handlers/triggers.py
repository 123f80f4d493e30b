"""Why a check is asked for: the events that AttestationMonitor's rules send, as triggers.

Sources of the forms: Systems Manager User Guide "Monitoring Systems Manager events with EventBridge" (State Manager), CloudFormation User Guide "Managing events with EventBridge",
EventBridge User Guide "AWS service events delivered via AWS CloudTrail".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nitrokit.errors import UsageError
from nitrokit.handlers.run_state import EVERYTHING, Trigger

CONTINUE = "nitrokit:continue"
ASSOCIATION = "EC2 State Manager Instance Association State Change"
_SCHEDULED = "Scheduled Event"
INSTANCE = re.compile(r"i-[0-9a-f]{8,17}")


class TriggerError(UsageError):
    """A check that was asked for wrongly."""

    area = "check"


def trigger_of(event: Mapping[str, Any], request_id: str) -> Trigger | None:
    """The trigger that an event is; None for the one that only goes on with a run. An invocation by hand may name ``instances``. Raises TriggerError."""
    if event.get(CONTINUE):
        return None
    identity = str(event.get("id") or request_id)
    if event.get("detail-type") == ASSOCIATION:
        return Trigger(identity, _instances(event) or (EVERYTHING,))
    if "detail-type" in event:
        return Trigger(identity, scheduled=event["detail-type"] == _SCHEDULED)
    return Trigger(identity, _named(event["instances"]) if "instances" in event else (EVERYTHING,))


def _named(instances: object) -> tuple[str, ...]:
    if not isinstance(instances, list) or not instances or not all(isinstance(one, str) and INSTANCE.fullmatch(one) for one in instances):
        raise TriggerError(
            "instances", "instances is a list of instance ids", got=repr(instances)[:200], expected='e.g. ["i-0123456789abcdef0"]'
        )
    return tuple(instances)


def _instances(event: Mapping[str, Any]) -> tuple[str, ...]:
    """The instances that an association's event is about: in ``detail``, and as ARNs in ``resources``."""
    named = {str(event.get("detail", {}).get("instance-id", "")), *(str(arn).rsplit("/", 1)[-1] for arn in event.get("resources", ()))}
    return tuple(sorted(one for one in named if INSTANCE.fullmatch(one)))
