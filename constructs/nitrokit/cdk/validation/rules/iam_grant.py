"""An IAM policy that seems to open an attested key, as ``kms.KeyGrants.from_key(key)`` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nitrokit.cdk.validation.keys import attested_keys
from nitrokit.cdk.validation.model import App, Rule, Template, Violation, as_list, texts
from nitrokit.cdk.validation.references import References
from nitrokit.core.key_policy import ATTESTED_ACTIONS, Severity
from nitrokit.core.key_policy.patterns import matches

RULE = Rule(
    "nitrokit/iam-grant",
    Severity.MEDIUM,
    "an IAM policy allows what goes round attestation: the key denies it, and where a Deny is missing it would open data",
    "take it out: key.grants.decrypt(role, image) is enough in the key's account, and brings its conditions to another",
)
RULES = (RULE,)
_UNGATED = ("kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReEncryptFrom", "kms:ReplicateKey", "kms:Decapsulate")


_KINDS = tuple(
    f"AWS::IAM::{kind}" for kind in ("Policy", "ManagedPolicy", "RolePolicy", "UserPolicy", "GroupPolicy", "Role", "User", "Group")
)


def check(app: App) -> Iterator[Violation]:
    """Statements of identity policies that name an attested key."""
    keys = [References(app, key.template, key.logical_id) for key in attested_keys(app)]
    for template in app.templates:
        for logical_id, statement in _statements(template):
            if any(key.found_in(statement.get("Resource"), template) for key in keys) and (actions := _dangerous(statement)):
                yield RULE.at(template, logical_id, detail=", ".join(actions))


def _statements(template: Template) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for logical_id, properties in template.of_type(*_KINDS):
        inline = [one.get("PolicyDocument") for one in as_list(properties.get("Policies")) if isinstance(one, Mapping)]
        for document in [properties.get("PolicyDocument"), *inline]:
            for statement in as_list(document.get("Statement") if isinstance(document, Mapping) else None):
                if isinstance(statement, Mapping) and statement.get("Effect") == "Allow":
                    yield logical_id, statement


def _dangerous(statement: Mapping[str, Any]) -> list[str]:
    """Actions that no attestation gates, and those that this statement does not gate."""
    gated = "recipientattestation:" in "".join(name for one in (statement.get("Condition") or {}).values() for name in one).lower()
    actions = _UNGATED if gated else (*_UNGATED, *ATTESTED_ACTIONS)
    negated = "NotAction" in statement
    patterns = [texts(one) for one in as_list(statement.get("NotAction" if negated else "Action"))]
    return [action for action in actions if any(matches(pattern, action, ignore_case=True) for pattern in patterns) is not negated]
