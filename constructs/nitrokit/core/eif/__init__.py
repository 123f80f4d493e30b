"""The enclave image file (EIF), versions 2–4. Source: aws-nitro-enclaves-image-format:README.md and src/defs/mod.rs."""

from nitrokit.core.eif.format import EifError, Section, SectionType
from nitrokit.core.eif.reader import Eif, read_eif
from nitrokit.core.eif.writer import write_eif

__all__ = ["Eif", "EifError", "Section", "SectionType", "read_eif", "write_eif"]
