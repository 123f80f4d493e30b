"""Reading an EIF, strictly: the section table and the walk over the sections must agree, and the CRC must hold."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from nitrokit.core.eif.format import (
    ARCHITECTURES,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    MAX_SECTIONS,
    MAX_SIGNATURE,
    READABLE_VERSIONS,
    SECTION_HEADER,
    EifError,
    Section,
    SectionType,
)
from nitrokit.core.measurements import HASH_ALGORITHM, Measurements, digest

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Eif:
    """A read EIF. The header, the metadata and the signature section are not measured: never take identity from them."""

    version: int
    arch: str
    sections: tuple[Section, ...]

    def of_type(self, kind: SectionType) -> list[memoryview]:
        """The data of all sections of a type, in file order."""
        return [section.data for section in self.sections if section.type is kind]

    @property
    def kernel(self) -> memoryview:
        return self.of_type(SectionType.KERNEL)[0]

    @property
    def cmdline(self) -> str:
        return bytes(self.of_type(SectionType.CMDLINE)[0]).decode(errors="replace")

    @property
    def ramdisks(self) -> list[memoryview]:
        return self.of_type(SectionType.RAMDISK)

    def measure(self) -> Measurements:
        """PCR0 (kernel ‖ cmdline ‖ all ramdisks), PCR1 (kernel ‖ cmdline ‖ first ramdisk), PCR2 (the other ramdisks)."""
        boot = [self.kernel, self.of_type(SectionType.CMDLINE)[0]]
        first, *others = self.ramdisks
        return Measurements(digest([*boot, first, *others]), digest([*boot, first]), digest(others))

    def describe(self) -> dict[str, Any]:
        """What ``nitro-cli describe-eif`` prints (aws-nitro-enclaves-cli:src/common/json_output.rs). A signature is not checked here: IsSigned says whether there is one."""
        metadata = self._metadata()
        pcrs = {f"PCR{index}": value.hex() for index, value in self.measure().pcrs().items()}
        description: dict[str, Any] = {
            "EifVersion": self.version,
            "Measurements": {"HashAlgorithm": HASH_ALGORITHM, **pcrs},
            "IsSigned": bool(self.of_type(SectionType.SIGNATURE)),
            "CheckCRC": True,  # read_eif refuses a file whose CRC does not hold
        }
        if metadata is not None:
            build = metadata.get("BuildMetadata")
            custom = metadata.get("CustomMetadata")
            description["ImageName"] = metadata.get("ImageName")
            description["ImageVersion"] = metadata.get("ImageVersion")
            description["Metadata"] = {
                **(build if isinstance(build, dict) else {}),
                "DockerInfo": metadata.get("DockerInfo"),
                **(custom if isinstance(custom, dict) else {}),
            }
        return description

    def _metadata(self) -> dict[str, Any] | None:
        sections = self.of_type(SectionType.METADATA)
        if not sections:
            return None
        try:
            value = json.loads(bytes(sections[0]))
        except (ValueError, RecursionError) as error:
            raise EifError("metadata", "the metadata section is not JSON", got=str(error)[:200]) from error
        if not isinstance(value, dict):
            raise EifError("metadata", "the metadata section is not a JSON object", got=type(value).__name__)
        return value


def read_eif(data: Any) -> Eif:
    """Read an EIF from bytes or a map of the file; sections are views, nothing is copied. Raises EifError."""
    view = memoryview(data)
    if len(view) < HEADER_SIZE:
        raise EifError("truncated", "too short for an EIF", got=f"{len(view)} bytes", expected=f"at least {HEADER_SIZE}")
    fields = HEADER.unpack(view[:HEADER_SIZE])
    magic, version, flags, _memory, _cpus, _reserved, count = fields[:7]
    _check_header(magic, version, flags, count)
    sections = _walk(view, fields[7 : 7 + count], fields[39 : 39 + count])
    _check_sections(sections, version)
    _check_crc(view, fields[-1])
    return Eif(version, ARCHITECTURES[flags & 1], tuple(sections))


def _check_header(magic: bytes, version: int, flags: int, count: int) -> None:
    if magic != MAGIC:
        raise EifError("bad-magic", "not an EIF", got=magic.hex(), expected=MAGIC.hex())
    if version not in READABLE_VERSIONS:
        raise EifError("version", "EIF version not supported", got=version, expected="2, 3 or 4")
    if flags & ~1:
        raise EifError("flags", "unknown EIF header flags", got=f"{flags:#06x}", expected="bit 0 (aarch64) alone")
    if not 2 <= count <= MAX_SECTIONS:
        raise EifError("section-count", "number of sections out of range", got=count, expected=f"2 to {MAX_SECTIONS}")


def _walk(view: memoryview, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> list[Section]:
    """Walk the sections from the header to the end of the file; each must stand where the table says, with the size it says."""
    sections, at = [], HEADER_SIZE
    for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if at + SECTION_HEADER.size > len(view):
            raise EifError("truncated", "the file ends before a section", got=f"{len(view)} bytes", expected=f"section {index} at {at}")
        kind, flags, length = SECTION_HEADER.unpack(view[at : at + SECTION_HEADER.size])
        if (offset, size) != (at, length):
            raise EifError(
                "table",
                "section table and sections disagree",
                got=f"section {index}: offset {at}, size {length}",
                expected=f"offset {offset}, size {size}",
            )
        if flags:
            raise EifError("section-flags", "unknown section flags", got=f"{flags:#06x} in section {index}", expected="0")
        at += SECTION_HEADER.size
        if at + length > len(view):
            raise EifError(
                "truncated", "the file ends in the middle of a section", got=f"{len(view)} bytes", expected=f"at least {at + length}"
            )
        try:
            sections.append(Section(SectionType(kind), view[at : at + length]))
        except ValueError as error:
            raise EifError("section-type", "unknown section type", got=f"{kind} in section {index}", expected="1 to 5") from error
        at += length
    if at != len(view):
        raise EifError("trailing-bytes", "bytes follow the last section", got=len(view) - at, expected="none")
    return sections


def _check_sections(sections: list[Section], version: int) -> None:
    kinds = [section.type for section in sections]
    for kind, most in ((SectionType.KERNEL, 1), (SectionType.CMDLINE, 1), (SectionType.SIGNATURE, 1), (SectionType.METADATA, 1)):
        if kinds.count(kind) > most:
            raise EifError("duplicate-section", f"more than one {kind.name.lower()} section", got=kinds.count(kind), expected=most)
    for kind in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK):
        if kind not in kinds:
            raise EifError("missing-section", f"no {kind.name.lower()} section")
    if version >= 4 and SectionType.METADATA not in kinds:
        raise EifError("missing-section", "no metadata section", expected="one, since version 4")
    if kinds.index(SectionType.RAMDISK) < kinds.index(SectionType.KERNEL):
        raise EifError("section-order", "a ramdisk stands before the kernel")
    for section in sections:
        if section.type is SectionType.SIGNATURE and len(section.data) > MAX_SIGNATURE:
            raise EifError(
                "signature-size", "the signature section is too large", got=len(section.data), expected=f"at most {MAX_SIGNATURE} bytes"
            )


def _check_crc(view: memoryview, expected: int) -> None:
    """CRC-32 over the header without its last four bytes, then everything behind the header."""
    crc = zlib.crc32(view[: HEADER_SIZE - 4])
    for start in range(HEADER_SIZE, len(view), _CHUNK):
        crc = zlib.crc32(view[start : start + _CHUNK], crc)
    if crc != expected:
        raise EifError(
            "crc",
            "the CRC does not hold: the file is damaged",
            got=f"{crc:08x}",
            expected=f"{expected:08x}",
            do="fetch or build the file again",
        )
