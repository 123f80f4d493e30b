"""One fresh value for many enclaves: each gets a nonce of its own, and nobody can pass one enclave's document for another's.

A Run Command has one value for each parameter, whatever the number of its instances (Systems Manager API Reference "SendCommand"). So the verifier draws one base for a command, never used
before, each host's agent asks its enclave with the nonce below, and the verifier computes it again. Sound against replay: before the base is sent nobody can know any nonce of it, and a document
with the nonce of one instance and enclave is refused for every other one. A host that asks for another's nonce gets a document of its own PCR4.

The standard library only: the host agent ships this file and runs on Python 3.9.
"""

from __future__ import annotations

import hashlib

_DOMAIN = b"nitrokit enclave nonce 1"


def enclave_nonce(base: bytes, instance_id: str, enclave: str) -> bytes:
    """The nonce of one enclave: SHA-256 over the length-prefixed domain, ``base``, instance id and enclave name; 32 bytes."""
    hasher = hashlib.sha256()
    for part in (_DOMAIN, base, instance_id.encode(), enclave.encode()):
        hasher.update(len(part).to_bytes(4, "big") + part)
    return hasher.digest()
