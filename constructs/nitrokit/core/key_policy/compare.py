"""Do two key policies say the same? Compared by what statements mean: order, case of names, spelling of single values and Sids do not matter.

Sources: IAM User Guide "IAM JSON policy elements reference"; "AWS JSON policy elements: Principal" (an account's number and the ARN of its root are one principal).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nitrokit.core.key_policy.document import Patterns, Principals, Statement, parse_policy

_ROOT = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}):root")
_Policy = str | bytes | Mapping[str, Any]


def policy_differences(deployed: _Policy, expected: _Policy) -> list[str]:
    """One sentence for each statement that only one of the two has; empty when they say the same. Raises PolicyError for what is not a policy."""
    now, meant = _by_meaning(deployed), _by_meaning(expected)
    gone = [f"statement {one.name} is gone, or was changed" for meaning, one in meant.items() if meaning not in now]
    added = [f"statement {one.name} was added, or changed: {_told(one)}" for meaning, one in now.items() if meaning not in meant]
    return gone + added


def _by_meaning(policy: _Policy) -> dict[object, Statement]:
    return {_meaning(statement): statement for statement in parse_policy(policy)}


def _meaning(statement: Statement) -> object:
    conditions = frozenset((one.operator.lower(), one.key.lower(), frozenset(one.values)) for one in statement.conditions)
    return (
        statement.effect,
        _whom(statement.principals),
        (statement.actions.negated, frozenset(one.lower() for one in statement.actions.values)),
        (statement.resources.negated, frozenset(statement.resources.values)),
        conditions,
        statement.variables,
    )


def _whom(principals: Principals | None) -> object:
    assert principals is not None  # parse_policy gives every statement of a key policy some
    return principals.negated, frozenset((kind, _ROOT.sub(r"\1", name)) for kind, name in principals.names)


def _told(statement: Statement) -> str:
    assert statement.principals is not None
    whom = ", ".join(name for _, name in statement.principals.names)
    what = f"{statement.effect} {_patterns(statement.actions)} for {'all but ' if statement.principals.negated else ''}{whom}"
    when = "; ".join(f"{one.operator} {one.key} {', '.join(value[:16] for value in one.values)}" for one in statement.conditions)
    return what + (f" when {when}" if when else "")


def _patterns(patterns: Patterns) -> str:
    return ("all but " if patterns.negated else "") + ", ".join(patterns.values)
