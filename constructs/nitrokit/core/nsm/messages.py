"""NSM requests and responses in CBOR (aws-nitro-enclaves-nsm-api:src/api/mod.rs).

A message is its name alone (``"DescribeNSM"``) or a map of one name to its fields (``{"DescribePCR": {"index": 0}}``). Requests are at most 0x1000 bytes, responses 0x3000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nitrokit.core import cbor
from nitrokit.errors import NitrokitError

MAX_REQUEST = 0x1000
MAX_RESPONSE = 0x3000
ERRORS = (
    "InvalidArgument",
    "InvalidIndex",
    "InvalidResponse",
    "ReadOnlyIndex",
    "InvalidOperation",
    "BufferTooSmall",
    "InputTooLarge",
    "InternalError",
)
_Fields = Mapping[str, type | tuple[type, ...]]
_OPTIONAL_BYTES = (bytes, type(None))
_REQUESTS: dict[str, _Fields] = {
    "DescribeNSM": {},
    "GetRandom": {},
    "DescribePCR": {"index": int},
    "ExtendPCR": {"index": int, "data": bytes},
    "LockPCR": {"index": int},
    "LockPCRs": {"range": int},
    "Attestation": {"user_data": _OPTIONAL_BYTES, "nonce": _OPTIONAL_BYTES, "public_key": _OPTIONAL_BYTES},
}
_RESPONSES: dict[str, _Fields] = {
    "DescribeNSM": {
        "version_major": int,
        "version_minor": int,
        "version_patch": int,
        "module_id": str,
        "max_pcrs": int,
        "locked_pcrs": list,
        "digest": str,
    },
    "GetRandom": {"random": bytes},
    "DescribePCR": {"lock": bool, "data": bytes},
    "ExtendPCR": {"data": bytes},
    "LockPCR": {},
    "LockPCRs": {},
    "Attestation": {"document": bytes},
}


class NsmError(NitrokitError):
    """A malformed NSM message, or an error that the NSM answered: its name is in ``got``."""

    area = "nsm"


def encode_request(name: str, fields: Mapping[str, Any] | None = None) -> bytes:
    """A request's bytes. Raises NsmError when it is larger than the device takes."""
    data = cbor.encode({name: dict(fields)} if fields else name)
    if len(data) > MAX_REQUEST:
        raise NsmError("request-size", "NSM request too large", got=f"{len(data)} bytes", expected=f"at most {MAX_REQUEST}")
    return data


def decode_request(data: bytes) -> tuple[str, dict[str, Any]]:
    """A request's name and fields, types checked. Raises NsmError or cbor.CborError."""
    name, fields = _split(cbor.decode(data, max_size=MAX_REQUEST))
    expected = _REQUESTS.get(name)
    if expected is None:
        raise NsmError("unknown-request", "unknown NSM request", got=name[:40], expected=", ".join(_REQUESTS))
    if set(fields) != set(expected) or not _typed(fields, expected):
        raise NsmError(
            "request-fields", f"wrong fields in {name}", got=repr(sorted(map(str, fields)))[:120], expected=", ".join(expected) or "none"
        )
    return name, fields


def encode_response(name: str, fields: Mapping[str, Any] | None = None) -> bytes:
    """A response's bytes."""
    return cbor.encode({name: dict(fields)} if fields else name)


def encode_error(error: str) -> bytes:
    """An error response; ``error`` is one of ERRORS."""
    return cbor.encode({"Error": error})


def decode_response(data: bytes, name: str) -> dict[str, Any]:
    """The fields of the response to request ``name``, types checked; a field that is not known may be there. Raises NsmError for an error response or another message."""
    message = cbor.decode(data, max_size=MAX_RESPONSE)
    if isinstance(message, dict) and list(message) == ["Error"]:
        raise NsmError("refused", f"the NSM refused {name}", got=str(message["Error"])[:80])
    got, fields = _split(message)
    if got != name:
        raise NsmError("response", "the NSM answered something else", got=got[:40], expected=name)
    if not _typed(fields, _RESPONSES[name]):
        raise NsmError(
            "response", f"malformed answer to {name}", got=repr(fields)[:120], expected=", ".join(_RESPONSES[name]) or "no fields"
        )
    return fields


def _typed(fields: Mapping[str, Any], expected: _Fields) -> bool:
    """Whether every expected field is there with its type; numbers are unsigned, of 16 bits."""
    return all(_is(fields.get(key), kind) if key in fields else False for key, kind in expected.items())


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value <= 0xFFFF
    if kind is list:
        return isinstance(value, list) and all(_is(one, int) for one in value)
    return isinstance(value, kind)


def _split(message: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(message, str):
        return message, {}
    if isinstance(message, dict) and len(message) == 1:
        name, fields = next(iter(message.items()))
        if isinstance(name, str) and isinstance(fields, dict):
            return name, fields
    raise NsmError("message", "not an NSM message", got=type(message).__name__, expected="a name, or a map of a name to its fields")
