"""Writing an EIF in the order of AWS's builder: kernel, cmdline, metadata, ramdisks, signature."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from nitrokit.core.eif.digests import EifDigests
from nitrokit.core.eif.format import (
    ARCHITECTURES,
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    MAX_SECTIONS,
    MAX_SIZES,
    SECTION_HEADER,
    VERSION,
    EifError,
    SectionType,
)
from nitrokit.core.eif.reader import Eif
from nitrokit.core.eif.signature import make_signature
from nitrokit.core.eif.source import Buffer, Readable, Source
from nitrokit.core.measurements import Measurements

_UNMEASURED = (SectionType.METADATA, SectionType.SIGNATURE)


@dataclass(frozen=True)
class Signer:
    """Who signs an image. ``certificate``: PEM. ``sign``: message → DER signature by its key, wherever that is (``cose.key_signer`` for one at hand)."""

    certificate: bytes
    sign: Callable[[bytes], bytes]


def write_eif(
    file: BinaryIO,
    *,
    kernel: Readable,
    cmdline: str,
    ramdisks: Sequence[Readable | Iterable[Buffer]],
    metadata: Mapping[str, Any],
    arch: str = "x86_64",
    signer: Signer | None = None,
) -> Measurements:
    """Write an EIF to an empty file, open for reading and writing, in constant memory; returns its measurements. The same arguments give the same bytes. A ramdisk may come in pieces.

    Raises EifError.
    """
    if not 1 <= len(ramdisks) <= MAX_SECTIONS - 3:
        raise EifError("section-count", "number of ramdisks out of range", got=len(ramdisks), expected=f"1 to {MAX_SECTIONS - 3}")
    flags = {name: number for number, name in ARCHITECTURES.items()}.get(arch)
    if flags is None:
        raise EifError("architecture", "unknown architecture", got=arch, expected=" or ".join(ARCHITECTURES.values()))
    writer = _Writer(file)
    with EifDigests() as digests:
        writer.digests = digests
        writer.section(SectionType.KERNEL, _pieces(kernel))
        writer.section(SectionType.CMDLINE, _pieces(cmdline.encode()))
        writer.section(SectionType.METADATA, _pieces(json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()))
        for ramdisk in ramdisks:
            writer.section(SectionType.RAMDISK, _pieces(ramdisk))
        return writer.finish(VERSION, flags, signer)


def sign_eif(eif: Eif, file: BinaryIO, signer: Signer) -> Measurements:
    """Write ``eif`` to an empty file, open for reading and writing, with a new signature in place of any it had. Raises EifError."""
    flags = {name: number for number, name in ARCHITECTURES.items()}[eif.arch]
    writer = _Writer(file)
    with EifDigests() as digests:
        writer.digests = digests
        for section in eif.sections:
            if section.type is not SectionType.SIGNATURE:
                writer.section(section.type, eif.chunks(section))
        return writer.finish(max(eif.version, 3), flags, signer)  # version 2 knew no signature


def _pieces(data: Readable | Iterable[Buffer]) -> Iterable[Buffer]:
    if isinstance(data, bytes | bytearray | memoryview) or hasattr(data, "seek"):
        source = Source(cast(Readable, data))
        return source.chunks(0, source.size)
    return data


class _Writer:
    """Sections first, the header last: a signature's size and the CRC are known only then."""

    digests: EifDigests

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._at = HEADER_SIZE
        file.write(bytes(HEADER_SIZE))

    def section(self, kind: SectionType, chunks: Iterable[Buffer]) -> None:
        """A section of any number of pieces; how large it is stands in its header when they have come."""
        if len(self._offsets) == MAX_SECTIONS:
            raise EifError("section-count", "no room for another section", got=MAX_SECTIONS, expected=f"at most {MAX_SECTIONS}")
        self._file.write(bytes(SECTION_HEADER.size))
        self.digests.begin_section(kind)
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > MAX_SIZES.get(kind, size):
                raise EifError(
                    "section-size",
                    f"the {kind.name.lower()} is too large",
                    got=f"{size} bytes or more",
                    expected=f"at most {MAX_SIZES[kind]}",
                )
            self._file.write(chunk)
            self.digests.update(chunk, measured=kind not in _UNMEASURED)
        self._file.seek(self._at)
        self._file.write(SECTION_HEADER.pack(kind, 0, size))
        self._offsets.append(self._at)
        self._sizes.append(size)
        self._at += SECTION_HEADER.size + size
        self._file.seek(self._at)

    def finish(self, version: int, flags: int, signer: Signer | None) -> Measurements:
        measurements = self.digests.measurements()
        if signer is not None:
            signature = make_signature(measurements.pcr0, signer.certificate, signer.sign)
            self.section(SectionType.SIGNATURE, _pieces(signature))
        empty = [0] * (MAX_SECTIONS - len(self._offsets))
        table = [*self._offsets, *empty, *self._sizes, *empty]
        fields = [MAGIC, version, flags, DEFAULT_MEMORY, DEFAULT_CPUS, 0, len(self._offsets), *table, 0]
        crc = zlib.crc32(HEADER.pack(*fields, 0)[:-4])
        for chunk in Source(self._file).chunks(HEADER_SIZE, self._at - HEADER_SIZE):
            crc = zlib.crc32(chunk, crc)
        self._file.seek(0)
        self._file.write(HEADER.pack(*fields, crc))
        return measurements
