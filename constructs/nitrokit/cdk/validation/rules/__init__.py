"""The pack: one rule a file (those on key policies come from the core's findings)."""

from __future__ import annotations

from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Violation
from nitrokit.cdk.validation.rules import (
    debug_mode,
    default_rules,
    iam_grant,
    imdsv1,
    key_policy,
    missing_alarm,
    public_address,
    public_ingress,
    service_encryption,
    stale_set,
    unpinned_image,
)

_PACK = (
    key_policy, stale_set, service_encryption, iam_grant, debug_mode, unpinned_image, missing_alarm, imdsv1, public_ingress, public_address, default_rules,
)  # fmt: skip
RULES = {rule.id: rule for module in _PACK for rule in module.RULES}
"""Every rule by its id."""


def check_app(app: App) -> Iterator[Violation]:
    """Everything that is broken, acknowledged or not."""
    for module in _PACK:
        yield from module.check(app)
