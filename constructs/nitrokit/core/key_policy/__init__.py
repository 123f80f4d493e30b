"""KMS key policies bound to measurements: building them, evaluating any policy as KMS does, and finding the ways round the attestation."""

from nitrokit.core.key_policy.compare import policy_differences
from nitrokit.core.key_policy.document import PolicyError, Statement, parse_policy
from nitrokit.core.key_policy.evaluate import AccessRequest, Decision, authorize, evaluate, evaluate_identity
from nitrokit.core.key_policy.findings import Finding, Grant, analyze_key_policy
from nitrokit.core.key_policy.openings import Opening, openings, retires
from nitrokit.core.key_policy.rules import RULES, Rule, Severity
from nitrokit.core.key_policy.statements import ATTESTED_ACTIONS, OWNER_ACTIONS, build_key_policy, check_size, policy_for

__all__ = [
    "ATTESTED_ACTIONS",
    "OWNER_ACTIONS",
    "RULES",
    "AccessRequest",
    "Decision",
    "Finding",
    "Grant",
    "Opening",
    "PolicyError",
    "Rule",
    "Severity",
    "Statement",
    "analyze_key_policy",
    "authorize",
    "build_key_policy",
    "check_size",
    "evaluate",
    "evaluate_identity",
    "openings",
    "parse_policy",
    "policy_differences",
    "policy_for",
    "retires",
]
