"""Attestation documents: parse (is it well-formed), verify (is it authentic), appraise (is it what I accept). Three functions, three results, three errors."""

from nitrokit.core.attestation.appraisal import Appraisal, Check, appraise, appraise_archived
from nitrokit.core.attestation.chain import CertificateSummary, ChainCache, summarize_chain
from nitrokit.core.attestation.document import DocumentError, UnverifiedDocument, parse_document
from nitrokit.core.attestation.path import VerificationError
from nitrokit.core.attestation.policy import AppraisalError, AppraisalPolicy
from nitrokit.core.attestation.roots import AWS_NITRO_ROOT_G1, TrustAnchor
from nitrokit.core.attestation.verifier import (
    ArchivedDocument,
    TpmDocument,
    VerifiedDocument,
    verify_archived_document,
    verify_document,
    verify_tpm_document,
)

__all__ = [
    "AWS_NITRO_ROOT_G1",
    "Appraisal",
    "AppraisalError",
    "AppraisalPolicy",
    "ArchivedDocument",
    "CertificateSummary",
    "ChainCache",
    "Check",
    "DocumentError",
    "TpmDocument",
    "TrustAnchor",
    "UnverifiedDocument",
    "VerificationError",
    "VerifiedDocument",
    "appraise",
    "appraise_archived",
    "parse_document",
    "summarize_chain",
    "verify_archived_document",
    "verify_document",
    "verify_tpm_document",
]
