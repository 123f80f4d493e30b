"""The entry point of admitting a fleet's instance; the logic is nitrokit.handlers.admit_instance."""

from nitrokit.handlers.admit_instance import handler

__all__ = ["handler"]
