"""Enclaves whose image is whatever a name leads to on the day."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Rule, Violation
from nitrokit.cdk.validation.scripts import scripts
from nitrokit.core.key_policy import Severity

RULE = Rule(
    "nitrokit/unpinned-image",
    Severity.HIGH,
    "an enclave's image is not pinned: it may measure otherwise tomorrow, and then opens nothing",
    "name the image by its digest (@sha256:…), or let EnclaveImage and EnclaveBootstrap compare it with its lock",
)
RULES = (RULE,)
_DOCKER_URI = re.compile(r"--docker-uri[= \t]+[\"']?([^\s\"';&|]*)")
_CONFIG = re.compile(r'"image_uri"\s*:')
_LOCKED = re.compile(r'"measurements"\s*:\s*[{\[].*"PCR0"', re.DOTALL)


def check(app: App) -> Iterator[Violation]:
    """nitro-cli's build-enclave from a mutable name, and configurations of our agent without the lock."""
    for template, logical_id, text in scripts(app):
        names = [name for name in _DOCKER_URI.findall(text) if "@sha256:" not in name]
        unlocked = ["no measurements"] if _CONFIG.search(text) and not _LOCKED.search(text) else []
        for detail in [*names, *unlocked]:
            yield RULE.at(template, logical_id, detail=detail or "--docker-uri")
