"""CMS EnvelopedData as AWS KMS puts it into ``CiphertextForRecipient`` (RFC 5652 section 6; aws-nitro-enclaves-sdk-c:source/cms.c).

One KeyTransRecipientInfo by subjectKeyIdentifier, RSAES-OAEP with SHA-256 and MGF1-SHA-256, AES-256-CBC with PKCS#7 padding. KMS writes BER with indefinite lengths;
read are definite and indefinite lengths, primitive and constructed content. CBC has no authentication: integrity is that of the TLS connection to KMS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from nitrokit.errors import NitrokitError

MAX_MESSAGE = 1 << 16
RSA_SIZES = (2048, 3072, 4096)  # aws-nitro-enclaves-sdk-c:include/aws/nitro_enclaves/attestation.h
_KEY_BYTES = 32
_MAX_DEPTH = 12
_DATA = bytes.fromhex("06092a864886f70d010701")
_ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_SHA256_NULL, _SHA256_ABSENT = bytes.fromhex("300d06096086480165030402010500"), bytes.fromhex("300b0609608648016503040201")
_RSAES_OAEP, _MGF1 = bytes.fromhex("06092a864886f70d010107"), bytes.fromhex("06092a864886f70d010108")
_OAEP = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class CmsError(NitrokitError):
    """A message of another form, or one that this key does not open."""

    area = "cms"


@dataclass(frozen=True)
class _Node:
    """One BER element: ``raw`` with header, ``content`` of a primitive one, ``children`` of a constructed one."""

    tag: int
    content: bytes
    children: tuple[_Node, ...]
    raw: bytes

    def octets(self) -> bytes:
        """A string's bytes, chunks of a constructed one joined."""
        return b"".join(child.octets() for child in self.children) if self.tag & 0x20 else self.content


def open_enveloped_data(message: bytes, private_key: RSAPrivateKey) -> bytes:
    """Open a message. Raises CmsError: ``key-size``, ``malformed`` for the form, ``undecryptable`` alike for a wrong key, wrong padding and wrong content."""
    _check_size(private_key.key_size)
    encrypted_key, iv, content = _parse(message)
    failed = CmsError(
        "undecryptable", "the CMS message does not open with this key", do="ask KMS again with a fresh attestation document and its key"
    )
    try:
        key = private_key.decrypt(encrypted_key, _OAEP)
        if len(key) != _KEY_BYTES:
            raise failed
        decryptor, unpadder = Cipher(AES(key), CBC(iv)).decryptor(), PKCS7(128).unpadder()
        padded = decryptor.update(content) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise failed from None  # one opaque failure: which step failed is nobody's business


def seal_enveloped_data(plaintext: bytes, public_key: RSAPublicKey, *, random: Callable[[int], bytes]) -> bytes:
    """Write a message in the form KMS uses (indefinite lengths). ``random(n)`` gives n random bytes. Raises CmsError for a key of another size."""
    _check_size(public_key.key_size)
    key, iv = random(_KEY_BYTES), random(16)
    padder, encryptor = PKCS7(128).padder(), Cipher(AES(key), CBC(iv)).encryptor()
    content = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    version = b"\x02\x01\x02"
    recipient = _tlv(
        0x30,
        version
        + _tlv(0x80, hashlib.sha256(spki).digest())
        + _oaep(_SHA256_NULL, _SHA256_NULL)
        + _tlv(0x04, public_key.encrypt(key, _OAEP)),
    )
    algorithm = _tlv(0x30, _AES_256_CBC + _tlv(0x04, iv))
    encrypted = _indefinite(0x30, _DATA + algorithm + _indefinite(0xA0, _tlv(0x04, content)))
    return _indefinite(0x30, _ENVELOPED_DATA + _indefinite(0xA0, _indefinite(0x30, version + _tlv(0x31, recipient) + encrypted)))


def _check_size(bits: int) -> None:
    if bits not in RSA_SIZES:
        raise CmsError(
            "key-size",
            "not an RSA key for a KMS recipient",
            got=f"{bits} bits",
            expected=", ".join(map(str, RSA_SIZES)),
            do="make another key",
        )


def _oaep(digest: bytes, mask_digest: bytes) -> bytes:
    """The algorithm rsaesOaep with [0] the digest and [1] MGF1 with its digest (RFC 4055 section 4.1)."""
    return _tlv(0x30, _RSAES_OAEP + _tlv(0x30, _tlv(0xA0, digest) + _tlv(0xA1, _tlv(0x30, _MGF1 + mask_digest))))


def _parse(message: bytes) -> tuple[bytes, bytes, bytes]:
    """Encrypted key, IV and encrypted content of a message of this profile."""
    if len(message) > MAX_MESSAGE:
        raise _malformed(f"{len(message)} bytes")
    try:
        root, end = _read(message, 0, _MAX_DEPTH)
        if end != len(message):
            raise _malformed("bytes behind the message")
        kind, wrapper = root.children
        (enveloped,) = wrapper.children
        version, recipients, encrypted = enveloped.children
        (recipient,) = recipients.children
        recipient_version, identifier, key_algorithm, key = recipient.children
        content_type, content_algorithm, content = encrypted.children
        cipher, iv = content_algorithm.children
    except (ValueError, IndexError) as error:
        raise _malformed(str(error)) from None
    tags = [node.tag for node in (root, wrapper, enveloped, recipients, recipient, identifier, key, encrypted, content_algorithm, iv)]
    if tags != [0x30, 0xA0, 0x30, 0x31, 0x30, 0x80, 0x04, 0x30, 0x30, 0x04] or content.tag not in (0x80, 0xA0):
        raise _malformed("an element of another type")
    if [version.content, recipient_version.content] != [b"\x02", b"\x02"]:
        raise _malformed("another version")
    if (kind.raw, content_type.raw, cipher.raw) != (_ENVELOPED_DATA, _DATA, _AES_256_CBC) or not _is_oaep_sha256(key_algorithm):
        raise _malformed("another algorithm or content type")
    data = content.octets()
    if len(iv.content) != 16 or not data or len(data) % 16:
        raise _malformed("IV or content of a wrong size")
    return key.content, iv.content, data


def _is_oaep_sha256(algorithm: _Node) -> bool:
    """SHA-256's parameters are NULL or absent: both forms must be accepted (RFC 4055 section 2.1)."""
    forms = (_SHA256_NULL, _SHA256_ABSENT)
    return _definite(algorithm) in {_oaep(one, other) for one in forms for other in forms}


def _malformed(got: str) -> CmsError:
    return CmsError(
        "malformed",
        "not a CMS message for a KMS recipient",
        got=got[:120],
        expected="EnvelopedData, one RSAES-OAEP-SHA-256 recipient by key identifier, AES-256-CBC",
    )


def _read(data: bytes, at: int, depth: int) -> tuple[_Node, int]:
    """Read the element at ``at``; returns it and the offset behind it. Raises ValueError or IndexError on malformed bytes."""
    start, tag, length = at, data[at], data[at + 1]
    if depth <= 0 or tag & 0x1F == 0x1F:
        raise ValueError("too deep, or a long tag")
    at += 2
    if length == 0x80:
        return _read_indefinite(data, start, depth)
    if length > 0x80:
        size = length & 0x7F
        if size > 4:
            raise ValueError("length of a length")
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    end = at + length
    if end > len(data):
        raise IndexError("the message ends in the middle of an element")
    if not tag & 0x20:
        return _Node(tag, data[at:end], (), data[start:end]), end
    children = []
    while at < end:
        child, at = _read(data, at, depth - 1)
        children.append(child)
    if at != end:
        raise ValueError("an element overruns its parent")
    return _Node(tag, b"", tuple(children), data[start:end]), end


def _read_indefinite(data: bytes, start: int, depth: int) -> tuple[_Node, int]:
    """The element at ``start`` whose length is open: children up to two zero bytes."""
    tag, at, children = data[start], start + 2, []
    if not tag & 0x20:
        raise ValueError("indefinite length on a primitive element")
    while data[at : at + 2] != b"\0\0":
        child, at = _read(data, at, depth - 1)
        children.append(child)
    return _Node(tag, b"", tuple(children), data[start : at + 2]), at + 2


def _definite(node: _Node) -> bytes:
    """An element with definite lengths throughout."""
    return _tlv(node.tag, b"".join(_definite(child) for child in node.children) if node.tag & 0x20 else node.content)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _indefinite(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x80]) + content + b"\0\0"
