"""What is fuzzed: every parser of untrusted bytes. A target returns, or raises one of our errors; anything else is a finding.

A result that a parser gives is used as far as untrusted data goes (a described EIF, a summarized chain), so that laziness hides nothing.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from nitrokit.core import cbor, cose
from nitrokit.core.attestation import TrustAnchor, parse_document, summarize_chain, verify_archived_document
from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.eif.signature import parse_signature
from nitrokit.core.key_policy import AccessRequest, analyze_key_policy, evaluate
from nitrokit.core.manifest import parse_manifest
from nitrokit.core.measurements import Measurements
from nitrokit.core.nsm import decode_request, decode_response
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.errors import NitrokitError


def _beside(name: str) -> ModuleType:
    """A file of this folder, which is no package."""
    specification = importlib.util.spec_from_file_location(f"nitrokit_fuzz_{name}", Path(__file__).with_name(f"{name}.py"))
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


runtime = _beside("runtime_targets")
host = _beside("host_targets")
handlers = _beside("handler_targets")
gate = _beside("gate_targets")
locks = _beside("lock_targets")
image = _beside("image_targets")
ledger = _beside("ledger_targets")
VECTORS = Path(__file__).parents[1] / "vectors"
_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def _cbor(data: bytes) -> None:
    cbor.decode(data)


def _sign1(data: bytes) -> None:
    cose.parse_sign1(data, cose.ALGORITHMS)


def _document(data: bytes) -> None:
    summarize_chain(parse_document(data))


def _verify(data: bytes) -> None:
    """With the document's own root as the anchor, so that the path is walked and not refused at its first step."""
    anchor = TrustAnchor("its own", parse_document(data).cabundle[0])
    verify_archived_document(data, trust_anchor=anchor)


def _eif(data: bytes) -> None:
    eif = read_eif(io.BytesIO(data))
    eif.describe()
    for section in eif.sections:
        eif.read(section)


def _eif_sections(data: bytes) -> None:
    """The same with the CRC made right, else nothing comes past it."""
    import zlib

    if len(data) > 548:
        data = data[:544] + zlib.crc32(data[548:], zlib.crc32(data[:544])).to_bytes(4, "big") + data[548:]
    _eif(data)


def _eif_signature(data: bytes) -> None:
    signature = parse_signature(data)
    signature.describe()
    signature.holds(bytes(48))


@cache
def _key() -> RSAPrivateKey:
    key = serialization.load_pem_private_key(next((VECTORS / "kms-cms").glob("*.key.pem")).read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    return key


def _cms(data: bytes) -> None:
    open_enveloped_data(data, _key())


def _nsm_request(data: bytes) -> None:
    decode_request(data)


def _nsm_response(data: bytes) -> None:
    for name in ("DescribeNSM", "DescribePCR", "Attestation"):
        try:
            decode_response(data, name)
        except NitrokitError:
            pass


def _measurements(data: bytes) -> None:
    values = ReferenceValues.parse(data)
    assert ReferenceValues.parse(values.to_json()) == values
    values.accepted_at(_TIME)


def _manifest(data: bytes) -> None:
    parse_manifest(data.decode(errors="replace"), path="enclave.toml")


def _key_policy(data: bytes) -> None:
    analyze_key_policy(data, account="123456789012")
    context = {"kms:RecipientAttestation:PCR0": "00", "aws:PrincipalArn": "arn:aws:iam::123456789012:role/x"}
    evaluate(
        data,
        AccessRequest(
            "kms:Decrypt", "arn:aws:iam::123456789012:role/x", "123456789012", "arn:aws:kms:us-east-1:123456789012:key/k", context
        ),
    )


TARGETS: dict[str, Callable[[bytes], None]] = {
    "cbor": _cbor, "sign1": _sign1, "document": _document, "verify": _verify, "eif": _eif, "eif_sections": _eif_sections, "eif_signature": _eif_signature, "cms": _cms,
    "nsm_request": _nsm_request, "nsm_response": _nsm_response, "measurements": _measurements, "manifest": _manifest, "key_policy": _key_policy,
    **runtime.TARGETS,
    **host.TARGETS,
    **handlers.TARGETS,
    **gate.TARGETS,
    **locks.TARGETS,
    **image.TARGETS,
    **ledger.TARGETS,
}  # fmt: skip


def check(target: str, data: bytes) -> None:
    """One case. Raises what must not escape."""
    try:
        TARGETS[target](data)
    except NitrokitError:
        pass


def corpus(target: str) -> list[bytes]:
    """Valid inputs of a target, from the vectors where there are some."""
    if target in ("cbor", "sign1", "document", "verify"):
        return [path.read_bytes() for folder in ("attestation", "attestation-invalid") for path in sorted((VECTORS / folder).glob("*.bin"))]
    if target == "cms":
        return [path.read_bytes() for path in sorted((VECTORS / "kms-cms").glob("*.ber"))]
    return [one if isinstance(one, bytes) else one.encode() for one in _MADE[target]()]


def _made_eif() -> list[bytes]:
    file = io.BytesIO()
    write_eif(file, kernel=b"kernel", cmdline="cmdline", ramdisks=[b"init", b"app"], metadata={"ImageName": "x", "BuildMetadata": {}})
    return [file.getvalue()]


def _made_signature() -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA384

    from nitrokit.core.eif.signature import make_signature

    key, name = ec.derive_private_key(7, ec.SECP384R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(_TIME).not_valid_after(_TIME).sign(key, SHA384(), ecdsa_deterministic=True)
    return [make_signature(bytes(48), certificate.public_bytes(serialization.Encoding.PEM), cose.key_signer(key))]


def _made_policies() -> list[str]:
    from nitrokit.core.key_policy import build_key_policy

    host, one = "arn:aws:iam::123456789012:role/x", Measurements(b"0" * 48, b"1" * 48, b"2" * 48)
    condition = {
        "StringLike": {"kms:RecipientAttestation:PCR0": ["*", "${aws:PrincipalArn}"]},
        "Null": {"a": "true"},
        "IpAddress": {"aws:SourceIp": "10.0.0.0/8"},
    }
    statement = {"Effect": "Allow", "NotPrincipal": {"AWS": host}, "NotAction": "kms:Encrypt", "Resource": "*", "Condition": condition}
    ours = build_key_policy(measurements=[one], host_role_arn=host, account="123456789012", data_owner_arns=["*"])
    return [json.dumps(ours), json.dumps({"Version": "2012-10-17", "Statement": statement})]


def _made_measurements() -> list[str]:
    one, other = (Measurements(name * 48, b"1" * 48, b"2" * 48, b"8" * 48) for name in (b"0", b"9"))
    return [one.to_json(), ReferenceValues(one, (RetiringSet(other, _TIME),)).to_json()]


_MADE: dict[str, Callable[[], list[bytes] | list[str]]] = {
    **runtime.MADE,
    **host.MADE,
    **handlers.MADE,
    **gate.MADE,
    **locks.MADE,
    **image.MADE,
    **ledger.MADE,
    "eif": _made_eif,
    "eif_sections": _made_eif,
    "eif_signature": _made_signature,
    "nsm_request": lambda: [
        cbor.encode({"Attestation": {"user_data": None, "nonce": b"n", "public_key": None}}),
        cbor.encode("DescribeNSM"),
    ],
    "nsm_response": lambda: [cbor.encode({"DescribePCR": {"lock": True, "data": b"v"}}), cbor.encode({"Error": "InvalidIndex"})],
    "measurements": _made_measurements,
    "manifest": lambda: [(Path(__file__).parents[2] / "enclave_images" / "hello" / "enclave.toml").read_text()],
    "key_policy": _made_policies,
}
