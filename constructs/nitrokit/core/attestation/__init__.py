"""Attestation documents: parse (is it well-formed), verify (is it authentic), appraise (is it what I accept). Three functions, three results, three errors."""

from nitrokit.core.attestation.document import DocumentError, UnverifiedDocument, parse_document
from nitrokit.core.attestation.path import VerificationError
from nitrokit.core.attestation.policy import Appraisal, AppraisalError, AppraisalPolicy, Check, appraise
from nitrokit.core.attestation.roots import AWS_NITRO_ROOT_G1, TrustAnchor
from nitrokit.core.attestation.verifier import TpmDocument, VerifiedDocument, verify_document, verify_tpm_document

__all__ = [
    "AWS_NITRO_ROOT_G1",
    "Appraisal",
    "AppraisalError",
    "AppraisalPolicy",
    "Check",
    "DocumentError",
    "TpmDocument",
    "TrustAnchor",
    "UnverifiedDocument",
    "VerificationError",
    "VerifiedDocument",
    "appraise",
    "parse_document",
    "verify_document",
    "verify_tpm_document",
]
