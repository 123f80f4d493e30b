"""The entry point of verifying one document; the logic is nitrokit.handlers.verify_attestation."""

from nitrokit.handlers.verify_attestation import handler

__all__ = ["handler"]
