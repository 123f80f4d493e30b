"""Enclaves that are started in debug mode: their parent reads their memory and console, and they attest as nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.cdk.validation.scripts import scripts
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/debug-mode",
    Severity.HIGH,
    "an enclave is started in debug mode",
    "start it without --debug-mode and --attach-console; debug on a key of its own, with this rule acknowledged",
)
RULES = (RULE,)
_DEBUG = re.compile(r'--debug-mode|--attach-console|"(?:debug_mode|attach_console)"\s*:\s*true')


def check(app: App) -> Iterator[Violation]:
    """Options of nitro-cli's run-enclave, on its command line or in its --config."""
    for template, logical_id, text in scripts(app):
        if found := _DEBUG.search(text):
            yield RULE.at(template, logical_id, detail=found[0])
