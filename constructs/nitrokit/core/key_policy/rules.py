"""The findings that an analysis of a key policy can have: stable ids, severity, what they mean, what to do. Explained in docs/key_policy.md.

Sources: KMS Developer Guide "Condition keys for attested requests", "Key policies", "Grants", "Multi-Region keys", "ABAC for KMS"; Service Authorization Reference (which action takes which
key); IAM User Guide "Condition operators"; aws-nitro-enclaves-sdk-c:docs/kmstool.md (the zero value).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """``critical``: somebody can open data without the attestation of an accepted image. ``high``: somebody can bring that about, or a condition does nothing."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


@dataclass(frozen=True)
class Rule:
    """One kind of finding."""

    id: str
    severity: Severity
    reason: str
    fix: str


_ALL = (
    Rule("unattested", Severity.CRITICAL, "opens data without an attestation document",
         "demand kms:RecipientAttestation conditions with StringEqualsIgnoreCase, and deny everybody without them"),
    Rule("iam-delegation", Severity.CRITICAL, "lets any IAM policy of the account open data without an attestation document",
         "list administrative actions instead of kms:*, or deny the opening actions to everybody without an accepted document"),
    Rule("existing-grant", Severity.CRITICAL, "a grant opens data, and no grant can demand attestation",
         "revoke the grant, and deny the opening actions to everybody without an accepted document: a Deny beats grants"),
    Rule("any-image", Severity.CRITICAL, "accepts the document of any image: what is compared does not tell the image",
         "compare PCR0, PCR1 and PCR2 with the image's measurements"),
    Rule("debug-enclave", Severity.CRITICAL, "accepts a debug-mode enclave, whose memory and console the parent reads",
         "take the zero values out; take the measurements from the image's lock, never from a debug-mode enclave"),
    Rule("re-encrypt", Severity.CRITICAL, "lets ciphertexts be re-encrypted under another key, and ReEncrypt takes no attestation document",
         "deny kms:ReEncryptFrom to everybody"),
    Rule("decapsulate", Severity.CRITICAL, "gives shared secrets in the clear: Decapsulate takes no attestation document", "deny kms:Decapsulate to everybody"),
    Rule("grant", Severity.HIGH, "may create grants, which need no attestation and give rights that their creator need not have", "deny kms:CreateGrant to everybody"),
    Rule("policy-change", Severity.HIGH, "may rewrite this policy, and so open everything",
         "deny kms:PutKeyPolicy to everybody (the key then cannot be changed any more), or name the one role that may, and watch it"),
    Rule("replication", Severity.HIGH, "may replicate the key: policy and grants of a replica are its own", "deny kms:ReplicateKey to everybody, or use a single-Region key"),
    Rule("boot-only", Severity.CRITICAL, "accepts any application on the same kernel and init: PCR1 is shared by unrelated images", "compare PCR0 and PCR2 too"),
    Rule("empty-application", Severity.CRITICAL, "accepts images whose PCR2 is the measurement of nothing", "compare PCR0 too, and give the application a ramdisk of its own"),
    Rule("mixed-sets", Severity.MEDIUM, "accepts values of two images mixed: values of one key are alternatives, each key by itself",
         "write one statement for each set of measurements"),
    Rule("signer-only", Severity.LOW, "accepts every image that the certificate's owner has ever signed", "compare PCR0 too, or keep the signing key as safe as the data"),
    Rule("tpm-boot-arguments", Severity.HIGH, "compares NitroTPM PCR4 but neither PCR12 nor PCR7: the kernel command line can be changed (GHSA-xrv8-2pf5-f3q7)",
         "compare NitroTPMPCR12, or NitroTPMPCR7 with Secure Boot, too"),
    Rule("zero-value", Severity.HIGH, "compares with zero: an unsigned image has a zero PCR8, a parent without a role a zero PCR3, a debug-mode enclave zero PCR0, 1 and 2",
         "compare with a measured value, or leave the condition out"),
    Rule("empty-value", Severity.MEDIUM, "compares PCR2 with the measurement of nothing, which every image with one ramdisk has", "give the application a ramdisk of its own"),
    Rule("unknown-key", Severity.HIGH, "names an attestation key that KMS does not know: it is never in a request",
         "use kms:RecipientAttestation:ImageSha384, PCR0–PCR31 or NitroTPMPCR0–NitroTPMPCR23"),
    Rule("value-form", Severity.HIGH, "compares with something that is never a PCR value, so the condition never matches", "write 96 lower-case hex digits without 0x"),
    Rule("misplaced-condition", Severity.MEDIUM, "demands a document for an action that takes none, so it is never allowed",
         "leave these actions out: Decrypt, DeriveSharedSecret, GenerateDataKey and GenerateDataKeyPair alone take one"),
    Rule("not-principal", Severity.HIGH, "allows everybody but those named", "name those who may"),
    Rule("not-action", Severity.MEDIUM, "allows everything but the actions named, new ones too", "list the actions that are meant"),
    Rule("wildcard-action", Severity.MEDIUM, "allows actions by a wildcard, new ones too", "list the actions that are meant"),
    Rule("attribute-based", Severity.LOW, "depends on tags or aliases: whoever may change those changes who matches", "name principals, and the key itself"),
    Rule("alias-move", Severity.LOW, "may move or delete the key's aliases: data owners who use one would encrypt under another key",
         "deny kms:UpdateAlias and kms:DeleteAlias to everybody; let data owners name the key by its ARN"),
    Rule("unknown-operator", Severity.HIGH, "uses an operator that is not understood; it was taken to hold in an Allow and not to hold in a Deny", "use a documented operator"),
    Rule("unauthenticated-ciphertext", Severity.INFO, "may make ciphertexts that an enclave accepts: decrypting one proves nothing about who wrote it",
         "sign data, or bind it by encryption context, where it matters who wrote it"),
    Rule("nobody", Severity.INFO, "no statement opens data for an enclave", "add an attested Allow for the host's role"),
    Rule("document-size", Severity.HIGH, "the policy is larger than a key policy may be", "allow fewer sets of measurements: 32 KiB is the limit"),
)  # fmt: skip
RULES = {rule.id: rule for rule in _ALL}
