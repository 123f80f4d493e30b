"""What `nitrokit doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked for. ``state``: "ok"; "missing" (needed; exit 3); "absent" (the tool does without); "wrong" (exit 1); "soon" (will be wrong)."""

    name: str
    state: str
    found: str
    remedy: str = ""
