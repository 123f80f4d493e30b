"""The entry point of checking all enclaves; the logic is nitrokit.handlers.check_enclaves."""

from nitrokit.handlers.check_enclaves import handler

__all__ = ["handler"]
