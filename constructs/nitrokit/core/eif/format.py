"""The EIF's numbers and structures. All integers are big-endian (aws-nitro-enclaves-image-format:src/defs/mod.rs)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from nitrokit.errors import NitrokitError

MAGIC = b".eif"
VERSION = 4
READABLE_VERSIONS = (2, 3, 4)
MAX_SECTIONS = 32
MAX_SIGNATURE = 32768
MAX_METADATA = 1 << 20  # ours: AWS's builder takes at most 4 KiB of custom metadata, the rest is a few facts and docker's
MAX_CMDLINE = 1 << 16  # ours: Linux takes 2 KiB on both architectures
# magic, version, flags, default_mem, default_cpus, reserved, num_sections, 32 offsets, 32 sizes, unused, crc32
HEADER = struct.Struct(">4sHHQQHH32Q32QII")
HEADER_SIZE = HEADER.size
SECTION_HEADER = struct.Struct(">HHQ")
ARCHITECTURES = {0: "x86_64", 1: "aarch64"}
DEFAULT_MEMORY = 1 << 30  # what AWS's builder writes; nothing reads it
DEFAULT_CPUS = 2


class EifError(NitrokitError):
    """A file that is not an EIF as the format's description has it."""

    area = "eif"


class SectionType(IntEnum):
    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


MAX_SIZES = {SectionType.SIGNATURE: MAX_SIGNATURE, SectionType.METADATA: MAX_METADATA, SectionType.CMDLINE: MAX_CMDLINE}


@dataclass(frozen=True)
class Section:
    """One section. ``offset``: of its data in the file, behind the 12-byte section header; ``size``: of its data in bytes."""

    type: SectionType
    offset: int
    size: int
