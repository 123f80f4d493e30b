"""EventBridge where moto 5.2.5 falls short: rules reach Lambdas, and a rule that has a schedule and no pattern matches no event."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from nitrokit.emulation.cloud import patching

Invoke = Callable[[Any, Any], object]


def install(invoke: Invoke) -> Callable[[], None]:
    """Put the helpers into moto; returns what takes them out again. ``invoke``: runs moto's function with an event, and waits."""
    from moto.events.models import Rule

    return patching.put(Rule, send_to_targets=_send_to_targets(Rule.send_to_targets, invoke))


def _send_to_targets(original: Callable[..., None], invoke: Invoke) -> Callable[..., None]:
    def send_to_targets(rule: Any, event: Any, transform_input: bool = True) -> None:
        scheduled = rule.scheduled_expression and not rule.event_pattern.get_pattern()
        if scheduled or rule.state != "ENABLED" or not rule.event_pattern.matches_event(event):
            return
        functions = [target for target in rule.targets if ":lambda:" in target["Arn"]]
        for target in functions:
            threading.Thread(target=_deliver, args=(rule, target, copy.deepcopy(event), invoke), daemon=True).start()
        others = copy.copy(rule)
        others.targets = [target for target in rule.targets if target not in functions]
        original(others, event, transform_input)

    return send_to_targets


def _deliver(rule: Any, target: dict[str, Any], event: Any, invoke: Invoke) -> None:
    from moto.awslambda.models import lambda_backends

    function = lambda_backends[rule.account_id][rule.region_name].get_function(target["Arn"])
    invoke(function, event)
