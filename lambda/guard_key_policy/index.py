"""The entry point of guarding key policies; the logic is nitrokit.handlers.guard_key_policy."""

from nitrokit.handlers.guard_key_policy import handler

__all__ = ["handler"]
