"""The root that a function trusts."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor


def trust_anchor(environment: Mapping[str, str]) -> TrustAnchor:
    """AWS's root; another one (base64 of its DER) only where it was deployed so, for local emulation."""
    encoded = environment.get("TRUST_ANCHOR")
    return TrustAnchor("configured root", base64.b64decode(encoded)) if encoded else AWS_NITRO_ROOT_G1
