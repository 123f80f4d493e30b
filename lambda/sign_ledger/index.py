"""The entry point of signing the ledger; the logic is nitrokit.handlers.sign_ledger."""

from nitrokit.handlers.sign_ledger import handler

__all__ = ["handler"]
