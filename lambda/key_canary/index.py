"""The entry point of the canary; the logic is nitrokit.handlers.key_canary."""

from nitrokit.handlers.key_canary import handler

__all__ = ["handler"]
