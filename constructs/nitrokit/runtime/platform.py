"""Where we run: real Nitro hardware, or the local emulation.

Emulation is switched on by a token in the kernel command line and by nothing else. On real hardware the whole command line is measured in PCR0 and PCR1,
so an enclave that has the token cannot attest as one that has not.
"""

from __future__ import annotations

import struct
from pathlib import Path

from nitrokit.core import boot, cbor
from nitrokit.core.nsm import NsmClient, NsmError, NsmProvider
from nitrokit.runtime import nsm_device, vsock
from nitrokit.runtime.frames import receive_exactly

HYPERVISOR_PORT = 7000
_MAX_ANSWER = 1 << 16
_TIMEOUT = 20.0


def is_emulated(cmdline: Path = Path("/proc/cmdline")) -> bool:
    """Whether the kernel command line has the token."""
    try:
        return boot.is_emulated(cmdline.read_text())
    except OSError:
        return False


def nsm() -> NsmProvider:
    """The Nitro Security Module of this enclave."""
    if not is_emulated():
        return NsmClient(nsm_device.exchange)
    return _CountersignedNsm(nsm_device.exchange) if nsm_device.present() else NsmClient(_ask_hypervisor)


def extra_tls_authorities() -> str | None:
    """PEM of the emulated AWS's certificate authority; None on real hardware, where the image's own bundle is all there is."""
    if not is_emulated():
        return None
    answer = cbor.decode(_ask_hypervisor(cbor.encode("TlsAuthorities")))
    return str(answer["TlsAuthorities"]["pem"])


class _CountersignedNsm(NsmClient):
    """QEMU's device does everything but sign: its documents are countersigned by the emulated hypervisor, which knows what it launched."""

    def attestation(self, *, user_data: bytes | None = None, nonce: bytes | None = None, public_key: bytes | None = None) -> bytes:
        unsigned = super().attestation(user_data=user_data, nonce=nonce, public_key=public_key)
        answer = cbor.decode(_ask_hypervisor(cbor.encode({"Countersign": {"document": unsigned}})))
        document = answer.get("Countersign", {}).get("document") if isinstance(answer, dict) else None
        if not isinstance(document, bytes):
            raise NsmError("countersign", "the emulated hypervisor did not countersign", got=str(answer)[:120])
        return document


def _ask_hypervisor(request: bytes) -> bytes:
    with vsock.connect(vsock.HYPERVISOR, HYPERVISOR_PORT, timeout=_TIMEOUT) as connection:
        connection.sendall(struct.pack(">I", len(request)) + request)
        (size,) = struct.unpack(">I", receive_exactly(connection, 4))
        if size > _MAX_ANSWER:
            raise NsmError("response", "the hypervisor's answer is too large", got=size, expected=f"at most {_MAX_ANSWER}")
        return receive_exactly(connection, size)
