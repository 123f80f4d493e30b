"""What is fuzzed: every parser of untrusted bytes. A target returns, or raises one of our errors; anything else is a finding.

A result that a parser gives is used as far as untrusted data goes (a described EIF, a summarized chain), so that laziness hides nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from nitrokit.core import cbor, cose
from nitrokit.core.attestation import TrustAnchor, parse_document, summarize_chain, verify_archived_document
from nitrokit.core.cms import open_enveloped_data
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.eif.signature import parse_signature
from nitrokit.core.key_policy import AccessRequest, analyze_key_policy, evaluate
from nitrokit.core.ledger import (
    LedgerEntry,
    LedgerRecord,
    NoteKey,
    NoteSigner,
    load_public_key,
    parse_checkpoint,
    parse_record,
    sign_checkpoint,
    verify_checkpoint,
)
from nitrokit.core.ledger.tiles import join_bundle, split_bundle
from nitrokit.core.manifest import Oci, parse_manifest
from nitrokit.core.measurements import Measurements
from nitrokit.core.nsm import decode_request, decode_response
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.errors import NitrokitError
from nitrokit.image import archive, cpio
from nitrokit.image.content import Spool
from nitrokit.image.contents import installed
from nitrokit.image.decompression import uncompressed
from nitrokit.image.sources import Workshop
from nitrokit.image.sources.layers import Layers
from nitrokit.image.sources.oci import read_layout
from nitrokit.image.unpack import Tree, unpack_deb, unpack_wheel


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
locks = _beside("lock_targets")
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


@cache
def _work() -> Path:
    return Path(tempfile.mkdtemp(prefix="nitrokit-fuzz-"))


def _file(data: bytes) -> Path:
    path = _work() / "file"
    path.write_bytes(data)
    return path


def _cpio(data: bytes) -> None:
    for _ in cpio.read(data):
        pass


def _ramdisk(data: bytes) -> None:
    for entry in archive.entries(data).values():
        entry.sha256()


def _layer(data: bytes) -> None:
    spool = Spool(_work() / "spool", limit=1 << 24)
    try:
        layers = Layers(spool, lambda path: path.startswith("x"))
        with uncompressed(io.BytesIO(data), "layer") as contents:
            layers.apply(contents, "layer")
        spool.flush()
        tree, _ = layers.result()
        cpio.write(tree)
        installed(tree)
    finally:
        spool.close()


def _oci(data: bytes) -> None:
    spool = Spool(_work() / "spool", limit=1 << 24)
    try:
        read_layout(Oci(_file(data).name), Workshop(_work(), "x86_64", _work(), _work(), spool, lambda _: None))
    finally:
        spool.close()


def _oci_json(data: bytes) -> None:
    """A layout whose index, manifest and configuration are the input's three lines: digests would stop any other mutation."""
    index, _, rest = data.partition(b"\n")
    manifest, _, config = rest.partition(b"\n")
    _oci(_layout(index, manifest, config))


def _deb(data: bytes) -> None:
    tree: Tree = {}
    unpack_deb(_file(data), tree)
    cpio.write(tree)


def _wheel(data: bytes) -> None:
    tree: Tree = {}
    unpack_wheel(_file(data), tree, "site")
    cpio.write(tree)


def _ledger_record(data: bytes) -> None:
    assert parse_record(data).encode() == data, "one value, one encoding"


@cache
def _ledger_key_pair() -> EllipticCurvePrivateKey:
    return derive_private_key(7, SECP256R1())


def _ledger_checkpoint(data: bytes) -> None:
    parse_checkpoint(data)
    verify_checkpoint(data, _ledger_key_pair().public_key())


def _ledger_key(data: bytes) -> None:
    load_public_key(data)


def _ledger_bundle(data: bytes) -> None:
    records = split_bundle(data[1:], data[0] if data else 0)
    assert join_bundle(records) == data[1:]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "cbor": _cbor, "sign1": _sign1, "document": _document, "verify": _verify, "eif": _eif, "eif_sections": _eif_sections, "eif_signature": _eif_signature, "cms": _cms,
    "nsm_request": _nsm_request, "nsm_response": _nsm_response, "measurements": _measurements, "manifest": _manifest, "key_policy": _key_policy,
    "cpio": _cpio, "ramdisk": _ramdisk, "layer": _layer, "oci": _oci, "oci_json": _oci_json, "deb": _deb, "wheel": _wheel,
    "ledger_record": _ledger_record, "ledger_checkpoint": _ledger_checkpoint, "ledger_key": _ledger_key, "ledger_bundle": _ledger_bundle,
    **runtime.TARGETS,
    **host.TARGETS,
    **handlers.TARGETS,
    **locks.TARGETS,
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


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {"SCHILY.xattr.user.note": "x"} if name.endswith("c") else {}
            archive.addfile(member, io.BytesIO(content))
        for name, kind, target in (("a/link", tarfile.SYMTYPE, "b"), ("a/hard", tarfile.LNKTYPE, "a/b"), ("d", tarfile.DIRTYPE, "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return file.getvalue()


def _made_layers() -> list[bytes]:
    import gzip

    import zstandard

    plain = _tar({"a/b": b"content", "a/.wh.old": b"", "a/c": b"x" * 2000, "./usr/x.dist-info/METADATA": b"Name: x\nVersion: 1\n"})
    return [plain, gzip.compress(plain, mtime=0), lzma.compress(plain), zstandard.compress(plain)]


def _layout(index: bytes, manifest: bytes, config: bytes) -> bytes:
    """An OCI archive, its digests made right: index → manifest → configuration and one layer."""

    def name(blob: bytes) -> str:
        return hashlib.sha256(blob).hexdigest()

    layer = _tar({"a/b": b"content"})
    manifest = manifest.replace(b"CONFIG", name(config).encode()).replace(b"LAYER", name(layer).encode())
    blobs = {f"blobs/sha256/{name(blob)}": blob for blob in (manifest, config, layer)}
    return _tar({"index.json": index.replace(b"MANIFEST", name(manifest).encode()), **blobs})


def _made_oci_lines() -> list[bytes]:
    index = b'{"manifests": [{"digest": "sha256:MANIFEST", "platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"org.opencontainers.image.ref.name": "x"}}]}'
    manifest = b'{"config": {"digest": "sha256:CONFIG"}, "layers": [{"digest": "sha256:LAYER"}]}'
    return [b"\n".join([index, manifest, b'{"config": {"Cmd": ["x"], "Env": ["A=b"], "User": "1", "WorkingDir": "/"}}'])]


def _made_deb() -> list[bytes]:
    made = []
    tree = _tar({"./a/b": b"content"})
    for suffix, data in (("", tree), (".xz", lzma.compress(tree))):
        deb = b"!<arch>\n"
        for name, content in (("debian-binary", b"2.0\n"), (f"data.tar{suffix}", data)):
            deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        made.append(deb)
    return made


def _made_wheel() -> list[bytes]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name in ("x/a.py", "x-1.data/purelib/b.py", "x-1.dist-info/METADATA"):
                archive.writestr(zipfile.ZipInfo(name), b"content " * 20, compress_type=method)
        made.append(file.getvalue())
    return made


def _made_ramdisks() -> list[bytes]:
    import zstandard

    plain = cpio.write({"d": cpio.folder(), "d/f": cpio.file(b"content", 0o755), "l": cpio.link("d/f")})
    return [plain, bytes(512) + plain + plain, lzma.compress(plain), zstandard.compress(plain)]


def _made_records() -> list[bytes]:
    pcrs = {index: bytes([index]) * 48 for index in (0, 1, 2, 24)}
    whole = LedgerEntry("id", _TIME, "hello", "i-1", "test", "FAIL", "why", "i-1-enc1", pcrs, b"nonce", b"document", None, bytes(32), "1.0")
    small = LedgerEntry("id", _TIME, "hello", "i-1", "test", "PASS")
    return [LedgerRecord(300, bytes(32), whole).encode(), LedgerRecord(0, bytes(32), small).encode()]


def _made_checkpoint() -> list[bytes]:
    key = _ledger_key_pair()
    signer = NoteSigner(NoteKey("o", key.public_key()), lambda message: key.sign(message, ECDSA(SHA256(), deterministic_signing=True)))
    return [sign_checkpoint(5, bytes(32), _TIME, signer).encode()]


def _made_keys() -> list[bytes]:
    public = _ledger_key_pair().public_key()
    return [
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]


_MADE: dict[str, Callable[[], list[bytes] | list[str]]] = {
    **runtime.MADE,
    **host.MADE,
    **handlers.MADE,
    **locks.MADE,
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
    "cpio": lambda: _made_ramdisks()[:1],
    "ramdisk": _made_ramdisks,
    "layer": _made_layers,
    "oci": lambda: [_layout(*_made_oci_lines()[0].split(b"\n"))],
    "oci_json": _made_oci_lines,
    "deb": _made_deb,
    "wheel": _made_wheel,
    "ledger_record": _made_records,
    "ledger_checkpoint": _made_checkpoint,
    "ledger_key": _made_keys,
    "ledger_bundle": lambda: [b"\x02" + join_bundle(_made_records()), b"\x01\x00\x00"],
}
