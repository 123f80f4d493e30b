"""Reading an EIF, strictly: the section table and the walk over the sections must agree, and the CRC must hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nitrokit.core.eif.digests import EifDigests
from nitrokit.core.eif.format import (
    ARCHITECTURES,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    MAX_SECTIONS,
    MAX_SIZES,
    READABLE_VERSIONS,
    SECTION_HEADER,
    EifError,
    Section,
    SectionType,
)
from nitrokit.core.eif.signature import EifSignature, parse_signature
from nitrokit.core.eif.source import Buffer, Readable, Source
from nitrokit.core.measurements import HASH_ALGORITHM, Measurements

_NAME_AN_EIF = "name the .eif file that nitrokit build or nitro-cli build-enclave wrote"
_MEASURED = (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK)


@dataclass(frozen=True)
class Eif:
    """A read EIF. The header, the metadata and the signature section are not measured: never take identity from them.

    ``measurements``: PCR0–2, and PCR8 where the signature holds over this PCR0. ``sections``: in file order.
    """

    version: int
    arch: str
    sections: tuple[Section, ...]
    measurements: Measurements
    signature: EifSignature | None
    metadata: dict[str, Any] | None
    size: int
    _source: Source = field(repr=False, compare=False)

    def of_type(self, kind: SectionType) -> list[Section]:
        """All sections of a type, in file order."""
        return [section for section in self.sections if section.type is kind]

    @property
    def kernel(self) -> Section:
        return self.of_type(SectionType.KERNEL)[0]

    @property
    def cmdline(self) -> str:
        return self.read(self.of_type(SectionType.CMDLINE)[0]).decode(errors="replace")

    @property
    def ramdisks(self) -> list[Section]:
        return self.of_type(SectionType.RAMDISK)

    def chunks(self, section: Section) -> Iterator[Buffer]:
        """A section's data in pieces. Raises EifError when the file has become shorter."""
        return self._source.chunks(section.offset, section.size)

    def read(self, section: Section) -> bytes:
        """A section's data, whole. Raises EifError when the file has become shorter."""
        return b"".join(self.chunks(section))

    def describe(self) -> dict[str, Any]:
        """What ``nitro-cli describe-eif`` prints (aws-nitro-enclaves-cli:src/common/json_output.rs). PCR8 stands there for every signed image: SignatureCheck tells whether to believe it."""
        measurements = self.measurements if self.signature is None else replace(self.measurements, pcr8=self.signature.pcr8)
        pcrs = {f"PCR{index}": value.hex() for index, value in measurements.pcrs().items()}
        description: dict[str, Any] = {
            "EifVersion": self.version,
            "Measurements": {"HashAlgorithm": HASH_ALGORITHM, **pcrs},
            "IsSigned": self.signature is not None,
        }
        if self.signature is not None:
            description["SigningCertificate"] = self.signature.describe()
        description["CheckCRC"] = True  # read_eif refuses a file whose CRC does not hold
        if self.signature is not None:
            description["SignatureCheck"] = self.signature.holds(self.measurements.pcr0)
        return {**description, **_describe_metadata(self.metadata)}


def _describe_metadata(metadata: dict[str, Any] | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    build, custom = metadata.get("BuildMetadata"), metadata.get("CustomMetadata")
    return {
        "ImageName": metadata.get("ImageName"),
        "ImageVersion": metadata.get("ImageVersion"),
        "Metadata": {
            **(build if isinstance(build, dict) else {}),
            "DockerInfo": metadata.get("DockerInfo"),
            **(custom if isinstance(custom, dict) else {}),
        },
    }


def read_eif(data: Readable) -> Eif:
    """Read and measure an EIF, in one pass and constant memory. Raises EifError.

    ``data``: bytes, or a seekable file opened for binary reading, which must stay open and unchanged as long as the result is used.
    """
    source = Source(data)
    if source.size < HEADER_SIZE:
        raise EifError("truncated", "too short for an EIF", got=f"{source.size} bytes", expected=f"at least {HEADER_SIZE}", do=_NAME_AN_EIF)
    header = bytes(source.read(0, HEADER_SIZE))
    fields = HEADER.unpack(header)
    magic, version, flags, _memory, _cpus, _reserved, count = fields[:7]
    _check_header(magic, version, flags, count)
    sections = _walk(source, fields[7 : 7 + count], fields[39 : 39 + count])
    _check_sections(sections, version)
    measurements = _measure(source, header[:-4], sections, fields[-1])
    small = {section.type: bytes(source.read(section.offset, section.size)) for section in sections if section.type in MAX_SIZES}
    signature = parse_signature(small[SectionType.SIGNATURE]) if SectionType.SIGNATURE in small else None
    if signature is not None and signature.holds(measurements.pcr0):
        measurements = replace(measurements, pcr8=signature.pcr8)
    metadata = _parse_metadata(small[SectionType.METADATA]) if SectionType.METADATA in small else None
    return Eif(version, ARCHITECTURES[flags & 1], tuple(sections), measurements, signature, metadata, source.size, source)


def _check_header(magic: bytes, version: int, flags: int, count: int) -> None:
    if magic != MAGIC:
        raise EifError("bad-magic", "not an EIF", got=repr(magic), expected=repr(MAGIC), do=_NAME_AN_EIF)
    if version not in READABLE_VERSIONS:
        raise EifError("version", "EIF version not supported", got=version, expected="2, 3 or 4")
    if flags & ~1:
        raise EifError("flags", "unknown EIF header flags", got=f"{flags:#06x}", expected="bit 0 (aarch64) alone")
    if not 2 <= count <= MAX_SECTIONS:
        raise EifError("section-count", "number of sections out of range", got=count, expected=f"2 to {MAX_SECTIONS}")


def _walk(source: Source, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> list[Section]:
    """Walk the sections from the header to the end of the file; each must stand where the table says, with the size it says."""
    sections, at = [], HEADER_SIZE
    for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if at + SECTION_HEADER.size > source.size:
            raise EifError("truncated", "the file ends before a section", got=f"{source.size} bytes", expected=f"section {index} at {at}")
        kind, flags, length = SECTION_HEADER.unpack(source.read(at, SECTION_HEADER.size))
        if (offset, size) != (at, length):
            raise EifError(
                "table",
                "section table and sections disagree",
                got=f"section {index}: offset {at}, size {length}",
                expected=f"offset {offset}, size {size}",
            )
        at += SECTION_HEADER.size
        sections.append(_section(index, kind, flags, at, length))
        at += length
        if at > source.size:
            raise EifError("truncated", "the file ends in the middle of a section", got=f"{source.size} bytes", expected=f"at least {at}")
    if at != source.size:
        raise EifError("trailing-bytes", "bytes follow the last section", got=source.size - at, expected="none")
    return sections


def _section(index: int, kind: int, flags: int, offset: int, size: int) -> Section:
    if flags:
        raise EifError("section-flags", "unknown section flags", got=f"{flags:#06x} in section {index}", expected="0")
    try:
        section = Section(SectionType(kind), offset, size)
    except ValueError as error:
        raise EifError("section-type", "unknown section type", got=f"{kind} in section {index}", expected="1 to 5") from error
    most = MAX_SIZES.get(section.type)
    if most is not None and size > most:
        name = section.type.name.lower()
        raise EifError("section-size", f"the {name} section is too large", got=f"{size} bytes", expected=f"at most {most}")
    return section


def _check_sections(sections: list[Section], version: int) -> None:
    kinds = [section.type for section in sections]
    for kind in SectionType:
        if kind is not SectionType.RAMDISK and kinds.count(kind) > 1:
            raise EifError("duplicate-section", f"more than one {kind.name.lower()} section", got=kinds.count(kind), expected=1)
    for kind in _MEASURED:
        if kind not in kinds:
            raise EifError("missing-section", f"no {kind.name.lower()} section")
    if version >= 4 and SectionType.METADATA not in kinds:
        raise EifError("missing-section", "no metadata section", expected="one, since version 4")
    measured = [kind for kind in kinds if kind in _MEASURED]
    if measured != sorted(measured):
        # The format allows a later cmdline, but its measurement is then read differently: in file order by AWS's tool, by kind by others.
        raise EifError(
            "section-order",
            "kernel, cmdline and ramdisks do not stand in this order",
            got=", ".join(kind.name.lower() for kind in measured),
            expected="the order in which every builder writes them and PCR0 measures them",
            do="build the image again with its sections in this order",
        )


def _measure(source: Source, header: bytes, sections: list[Section], crc: int) -> Measurements:
    """CRC-32 over the header without its last four bytes and everything behind the header; PCRs over the data of the measured sections."""
    with EifDigests() as digests:
        digests.update(header, measured=False)
        for section in sections:
            digests.begin_section(section.type)
            digests.update(source.read(section.offset - SECTION_HEADER.size, SECTION_HEADER.size), measured=False)
            for chunk in source.chunks(section.offset, section.size):
                digests.update(chunk, measured=section.type in _MEASURED)
        if digests.crc() != crc:
            raise EifError(
                "crc",
                "the CRC does not hold: the file is damaged",
                got=f"{digests.crc():08x}",
                expected=f"{crc:08x}",
                do="fetch or build the file again",
            )
        return digests.measurements()


def _parse_metadata(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EifError("metadata", "the metadata section is not JSON", got=str(error)[:200]) from error
    if not isinstance(value, dict):
        raise EifError("metadata", "the metadata section is not a JSON object", got=type(value).__name__)
    return value
