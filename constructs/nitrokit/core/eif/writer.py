"""Writing an EIF in the order of AWS's builder: kernel, cmdline, metadata, ramdisks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nitrokit.core.eif.format import (
    ARCHITECTURES,
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    MAX_SECTIONS,
    SECTION_HEADER,
    VERSION,
    EifError,
    SectionType,
)

Buffer = bytes | bytearray | memoryview


def write_eif(
    *, kernel: Buffer, cmdline: str, ramdisks: Sequence[Buffer], metadata: Mapping[str, Any], arch: str = "x86_64"
) -> Iterator[Buffer]:
    """The file's bytes in chunks, header first. The same arguments give the same bytes. Raises EifError."""
    if not 1 <= len(ramdisks) <= MAX_SECTIONS - 3:
        raise EifError("section-count", "number of ramdisks out of range", got=len(ramdisks), expected=f"1 to {MAX_SECTIONS - 3}")
    flags = {name: number for number, name in ARCHITECTURES.items()}.get(arch)
    if flags is None:
        raise EifError("architecture", "unknown architecture", got=arch, expected=" or ".join(ARCHITECTURES.values()))
    sections: list[tuple[SectionType, Buffer]] = [
        (SectionType.KERNEL, kernel),
        (SectionType.CMDLINE, cmdline.encode()),
        (SectionType.METADATA, json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()),
        *((SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]
    offsets, at = [], HEADER_SIZE
    for _, data in sections:
        offsets.append(at)
        at += SECTION_HEADER.size + len(data)
    empty = [0] * (MAX_SECTIONS - len(sections))
    fields = [
        MAGIC,
        VERSION,
        flags,
        DEFAULT_MEMORY,
        DEFAULT_CPUS,
        0,
        len(sections),
        *offsets,
        *empty,
        *(len(data) for _, data in sections),
        *empty,
        0,
    ]
    headers = [SECTION_HEADER.pack(kind, 0, len(data)) for kind, data in sections]
    crc = zlib.crc32(HEADER.pack(*fields, 0)[:-4])
    for header, (_, data) in zip(headers, sections, strict=True):
        crc = zlib.crc32(data, zlib.crc32(header, crc))
    yield HEADER.pack(*fields, crc)
    for header, (_, data) in zip(headers, sections, strict=True):
        yield header
        yield data
