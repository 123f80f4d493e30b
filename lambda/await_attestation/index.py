"""The entry point of a pipeline's wait for attested health; the logic is nitrokit.handlers.await_attestation."""

from nitrokit.handlers.await_attestation import handler

__all__ = ["handler"]
