"""What each Lambda ships: modules of nitrokit, and distributions of lambda/requirements.txt. An edit of anything else never changes its asset. A test compares this with what the handlers import."""

from __future__ import annotations

from dataclasses import dataclass

_BASE = ("__init__.py", "errors.py", "core/__init__.py", "core/measurements.py", "handlers/__init__.py")
_SETTINGS = ("core/reference_values.py", "handlers/settings.py")
_ATTESTATION = (
    *_BASE, "core/cbor.py", "core/cose.py", "core/attestation/__init__.py", "core/attestation/appraisal.py", "core/attestation/chain.py", "core/attestation/document.py",
    "core/attestation/path.py", "core/attestation/policy.py", "core/attestation/roots.py", "core/attestation/verifier.py",
)  # fmt: skip
_VERDICTS = (*_SETTINGS, "handlers/trust.py", "handlers/verdict.py")
_STATE = ("handlers/clients.py", "handlers/findings.py", "handlers/run_state.py", "handlers/run_store.py")
_KEY_POLICY = (
    "core/key_policy/__init__.py", "core/key_policy/adversaries.py", "core/key_policy/compare.py", "core/key_policy/conditions.py", "core/key_policy/document.py",
    "core/key_policy/evaluate.py", "core/key_policy/findings.py", "core/key_policy/openings.py", "core/key_policy/patterns.py", "core/key_policy/rules.py", "core/key_policy/statements.py",
)  # fmt: skip
_LEDGER_RECORDS = (
    "core/ledger/__init__.py", "core/ledger/audit.py", "core/ledger/checkpoint.py", "core/ledger/entry.py", "core/ledger/errors.py", "core/ledger/history.py",
    "core/ledger/merkle.py", "core/ledger/note.py", "core/ledger/proofs.py", "core/ledger/tiles.py",
)  # fmt: skip
_LEDGER = (*_LEDGER_RECORDS, "core/ledger/layout.py", "handlers/ledger_store.py", "handlers/ledger_table.py")
_CRYPTOGRAPHY = ("cbor2", "cffi", "cryptography", "typing-extensions")
_POWERTOOLS = ("aws-lambda-powertools", "jmespath")
_TRACED = ("aws-xray-sdk", "wrapt")


@dataclass(frozen=True)
class Closure:
    """``modules``: paths below the package nitrokit; ``distributions``: names as in the lock. The runtime brings boto3 and what that needs."""

    modules: tuple[str, ...]
    distributions: tuple[str, ...]


CLOSURES = {
    "verify_attestation": Closure(
        (*_ATTESTATION, *_VERDICTS, "handlers/schemas/verify_attestation.json", "handlers/tracing.py", "handlers/verify_attestation.py"), (*_CRYPTOGRAPHY, *_POWERTOOLS, "fastjsonschema")
    ),
    "check_enclaves": Closure(
        (
            *_ATTESTATION, *_VERDICTS, *_STATE, *_LEDGER, "core/nonces.py", "handlers/check_enclaves.py", "handlers/checked.py", "handlers/checker.py", "handlers/ended.py", "handlers/hosts.py",
            "handlers/triggers.py",
        ),
        (*_CRYPTOGRAPHY, *_POWERTOOLS, *_TRACED),
    ),
    "sign_ledger": Closure(
        (*_ATTESTATION, *_LEDGER, "handlers/ledger_export.py", "handlers/ledger_signing.py", "handlers/sign_ledger.py", "handlers/tracing.py"), (*_CRYPTOGRAPHY, *_POWERTOOLS)
    ),
    "guard_key_policy": Closure((*_BASE, *_SETTINGS, *_STATE, *_KEY_POLICY, "handlers/guard_key_policy.py", "handlers/key_guard.py"), (*_POWERTOOLS, *_TRACED, "typing-extensions")),
    "key_canary": Closure((*_BASE, *_SETTINGS, "handlers/findings.py", "handlers/key_canary.py", "handlers/tracing.py"), (*_POWERTOOLS, "typing-extensions")),
    "audit": Closure(
        (*_ATTESTATION, *_SETTINGS, *_STATE, *_LEDGER, "handlers/audit.py", "handlers/auditor.py", "handlers/key_use.py", "handlers/ledger_index.py"), (*_CRYPTOGRAPHY, *_POWERTOOLS, *_TRACED)
    ),
    "await_attestation": Closure((*_BASE[:2], "handlers/__init__.py", "handlers/await_attestation.py"), (*_POWERTOOLS, *_TRACED, "typing-extensions")),
    "admit_instance": Closure(
        (
            *_ATTESTATION, *_VERDICTS, *_LEDGER_RECORDS, "core/nonces.py", "handlers/admit_instance.py", "handlers/checked.py", "handlers/findings.py", "handlers/hosts.py",
        ),
        (*_CRYPTOGRAPHY, *_POWERTOOLS, *_TRACED),
    ),
}  # fmt: skip
"""Function → what it ships."""
