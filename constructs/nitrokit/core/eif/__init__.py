"""The enclave image file (EIF), versions 2–4. Source: aws-nitro-enclaves-image-format:README.md and src/defs/mod.rs."""

from nitrokit.core.eif.format import EifError, Section, SectionType
from nitrokit.core.eif.reader import Eif, read_eif
from nitrokit.core.eif.signature import EifSignature
from nitrokit.core.eif.writer import Signer, sign_eif, write_eif

__all__ = ["Eif", "EifError", "EifSignature", "Section", "SectionType", "Signer", "read_eif", "sign_eif", "write_eif"]
