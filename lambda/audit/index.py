"""The entry point of the audit; the logic is nitrokit.handlers.audit."""

from nitrokit.handlers.audit import handler

__all__ = ["handler"]
