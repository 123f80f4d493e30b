"""The attestation check's entry point; the logic is nitrokit.handlers.check_enclave."""

from nitrokit.handlers.check_enclave import handler

__all__ = ["handler"]
