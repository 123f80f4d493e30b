"""The emulated Nitro Security Module of one enclave: answers NSM requests, and countersigns the documents of QEMU's device, which signs nothing."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import cbor2

from nitrokit.core import cbor
from nitrokit.core.attestation import DocumentError, parse_document
from nitrokit.core.cose import ES384, key_signer, sign_sign1
from nitrokit.core.measurements import PCR_LENGTH, ZERO, Measurements, extend, pcr3, pcr4
from nitrokit.core.nsm import NsmError, decode_request, encode_error, encode_response
from nitrokit.emulation.nitro.pki import EmulatedPki

_PCRS, _LOCKED_AT_BOOT = 32, 16
_MAX_FIELD = {"user_data": 512, "nonce": 512, "public_key": 1024}


class EmulatedNsm:
    """One enclave's NSM. In debug mode PCR0, 1, 2 and 8 are zero, PCR3 and PCR4 stay (as on real hardware)."""

    def __init__(
        self,
        *,
        module_id: str,
        measurements: Measurements,
        role_arn: str | None,
        debug: bool,
        pki: EmulatedPki,
        now: Callable[[], datetime],
    ) -> None:
        self.module_id = module_id
        self._pki = pki
        self._now = now
        self._lock = threading.Lock()
        self._leaf = pki.leaf(module_id)
        self._pcrs = [ZERO] * _PCRS
        if not debug:
            for index, value in measurements.pcrs().items():
                self._pcrs[index] = value
        self._measured = {index: measurements.pcrs().get(index, ZERO) for index in (0, 1, 2)}
        self._pcrs[3] = pcr3(role_arn) if role_arn else ZERO
        self._pcrs[4] = pcr4(module_id.split("-enc")[0])
        self._locked = set(range(_LOCKED_AT_BOOT))

    def answer(self, request: bytes) -> bytes:
        """The response to a request; malformed ones are answered by an error, as the device does."""
        try:
            name, fields = decode_request(request)
        except (NsmError, cbor.CborError):
            return encode_error("InvalidOperation")
        with self._lock:
            return self._dispatch(name, fields)

    def _dispatch(self, name: str, fields: dict[str, Any]) -> bytes:
        match name:
            case "DescribeNSM":
                return encode_response(name, self._description())
            case "GetRandom":
                return encode_response(name, {"random": secrets.token_bytes(256)})
            case "Attestation":
                if any(len(fields[key] or b"") > most for key, most in _MAX_FIELD.items()):
                    return encode_error("InputTooLarge")
                return encode_response(name, {"document": self._document(dict(enumerate(self._pcrs)), fields)})
            case "LockPCRs":
                if not 0 <= fields["range"] <= _PCRS:
                    return encode_error("InvalidIndex")
                self._locked |= set(range(fields["range"]))
                return encode_response(name)
        return self._one_pcr(name, fields)

    def _one_pcr(self, name: str, fields: dict[str, Any]) -> bytes:
        index = fields["index"]
        if not 0 <= index < _PCRS:
            return encode_error("InvalidIndex")
        if name == "DescribePCR":
            return encode_response(name, {"lock": index in self._locked, "data": self._pcrs[index]})
        if index in self._locked:
            return encode_error("ReadOnlyIndex")
        if name == "LockPCR":
            self._locked.add(index)
            return encode_response(name)
        self._pcrs[index] = extend(self._pcrs[index], fields["data"])
        return encode_response(name, {"data": self._pcrs[index]})

    def _description(self) -> dict[str, Any]:
        version = {"version_major": 1, "version_minor": 0, "version_patch": 0}
        return {**version, "module_id": self.module_id, "max_pcrs": _PCRS, "locked_pcrs": sorted(self._locked), "digest": "SHA384"}

    def countersign(self, unsigned: bytes) -> bytes:
        """Sign what QEMU's device of this very enclave said. Raises NsmError when it claims another enclave or other measurements."""
        try:
            document = parse_document(unsigned, any_signature=True)
        except DocumentError as error:
            raise NsmError("countersign", "not a document of the emulated device", got=str(error)[:200]) from error
        measured = {**self._measured, 3: self._pcrs[3], 4: self._pcrs[4]}
        differing = [index for index, value in measured.items() if document.pcrs.get(index) != value]
        if document.module_id != self.module_id or differing:
            raise NsmError(
                "countersign",
                "the device claims another enclave than was launched",
                got=f"{document.module_id}, PCRs {differing} differ",
                expected=self.module_id,
            )
        pcrs = {index: self._pcrs[index] if index in (0, 1, 2, 8) else value for index, value in document.pcrs.items()}
        fields = {"user_data": document.user_data, "nonce": document.nonce, "public_key": document.public_key}
        with self._lock:
            return self._document(pcrs, fields, locked=set(pcrs))

    def _document(self, pcrs: dict[int, bytes], fields: dict[str, Any], locked: set[int] | None = None) -> bytes:
        """A signed document; the payload is an indefinite map in the order AWS writes it (since 2025)."""
        now = self._now()
        leaf, bundle = self._leaf
        if now > leaf.certificate.not_valid_after_utc - (leaf.certificate.not_valid_after_utc - leaf.certificate.not_valid_before_utc) / 5:
            leaf, bundle = self._leaf = self._pki.leaf(self.module_id)
        shown = self._locked if locked is None else locked
        payload = {
            "module_id": self.module_id,
            "digest": "SHA384",
            "timestamp": int(now.timestamp() * 1000),
            "pcrs": {index: value for index, value in sorted(pcrs.items()) if index in shown and len(value) == PCR_LENGTH},
            "certificate": leaf.der,
            "cabundle": bundle,
            **{key: fields[key] for key in ("public_key", "user_data", "nonce")},
        }
        encoded = b"\xbf" + b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in payload.items()) + b"\xff"
        return sign_sign1(encoded, ES384, key_signer(leaf.key)).encode()
