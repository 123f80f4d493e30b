"""A rollover that was never finished: the old set stands in the policy although its date has passed."""

from __future__ import annotations

from collections.abc import Iterator

from nitrokit.cdk.validation.keys import attested_keys
from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.core.key_policy import PolicyError, Severity, parse_policy, retires

RULE = Rule(
    "nitrokit/stale-set",
    Severity.HIGH,
    "a set of measurements is past its retirement date",
    "end the rollover: `nitrokit lock IMAGE --retire`, and deploy",
)
RULES = (RULE,)


def check(app: App) -> Iterator[Violation]:
    """Allows of attested keys whose date has passed at the app's time."""
    for key in attested_keys(app):
        try:
            read = [(one.when, parse_policy(one.policy)) for one in key.policies]
        except PolicyError:
            continue  # nitrokit/policy-form tells
        for when, statements in read:
            for statement in statements:
                date = retires(statement) if statement.allows else None
                if date is not None and app.time > date:
                    yield key.broken(RULE, f"{statement.name}, {date:%Y-%m-%d %H:%M:%S} UTC", when=when)
