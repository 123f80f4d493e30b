"""What a Nitro Security Module can do, whoever answers: the device in an enclave, or the emulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nitrokit.core.nsm.messages import decode_response, encode_request


class PcrState(NamedTuple):
    """A PCR's value and whether it is locked."""

    locked: bool
    value: bytes


class NsmDescription(NamedTuple):
    """The module's version, id, number of PCRs, locked PCRs and digest ("SHA384")."""

    version: tuple[int, int, int]
    module_id: str
    max_pcrs: int
    locked_pcrs: tuple[int, ...]
    digest: str


class NsmProvider(Protocol):
    """A Nitro Security Module. Every method raises NsmError."""

    def describe(self) -> NsmDescription: ...
    def describe_pcr(self, index: int) -> PcrState: ...
    def extend_pcr(self, index: int, data: bytes) -> bytes: ...
    def lock_pcr(self, index: int) -> None: ...
    def lock_pcrs(self, count: int) -> None: ...
    def attestation(self, *, user_data: bytes | None = None, nonce: bytes | None = None, public_key: bytes | None = None) -> bytes: ...
    def get_random(self) -> bytes: ...


class NsmClient:
    """An NsmProvider over ``exchange``: request bytes in, response bytes out."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def _call(self, name: str, **fields: Any) -> dict[str, Any]:
        return decode_response(self._exchange(encode_request(name, fields)), name)

    def describe(self) -> NsmDescription:
        fields = self._call("DescribeNSM")
        version = (fields["version_major"], fields["version_minor"], fields["version_patch"])
        return NsmDescription(version, fields["module_id"], fields["max_pcrs"], tuple(fields["locked_pcrs"]), fields["digest"])

    def describe_pcr(self, index: int) -> PcrState:
        fields = self._call("DescribePCR", index=index)
        return PcrState(fields["lock"], fields["data"])

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        return bytes(self._call("ExtendPCR", index=index, data=data)["data"])

    def lock_pcr(self, index: int) -> None:
        self._call("LockPCR", index=index)

    def lock_pcrs(self, count: int) -> None:
        self._call("LockPCRs", range=count)

    def attestation(self, *, user_data: bytes | None = None, nonce: bytes | None = None, public_key: bytes | None = None) -> bytes:
        return bytes(self._call("Attestation", user_data=user_data, nonce=nonce, public_key=public_key)["document"])

    def get_random(self) -> bytes:
        return bytes(self._call("GetRandom")["random"])
