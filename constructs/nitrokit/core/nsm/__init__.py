"""Messages of the Nitro Security Module, and the interface behind which a device or the emulation answers."""

from nitrokit.core.nsm.interface import NsmClient, NsmDescription, NsmProvider, PcrState
from nitrokit.core.nsm.messages import NsmError, decode_request, decode_response, encode_error, encode_request, encode_response

__all__ = [
    "NsmClient",
    "NsmDescription",
    "NsmError",
    "NsmProvider",
    "PcrState",
    "decode_request",
    "decode_response",
    "encode_error",
    "encode_request",
    "encode_response",
]
