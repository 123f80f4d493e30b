"""Inside the enclave: init (PID 1), the NSM device, vsock, egress and ingress, the control server, KMS with Recipient. The parent is the attacker.

For apps: ``from nitrokit.runtime import Kms, attest``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Kms", "attest"]


def __getattr__(name: str) -> Any:
    """Init pays for no HTTP client, and an app that does not attest neither."""
    if name in __all__:
        from nitrokit.runtime import client

        return getattr(client, name)
    raise AttributeError(name)
