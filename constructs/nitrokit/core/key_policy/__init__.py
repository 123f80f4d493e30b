"""KMS key policies bound to measurements: building them, evaluating any policy as KMS does, and finding the ways round the attestation."""

from nitrokit.core.key_policy.compare import policy_differences
from nitrokit.core.key_policy.document import PolicyError, Statement, parse_policy
from nitrokit.core.key_policy.evaluate import AccessRequest, Decision, authorize, evaluate, evaluate_identity
from nitrokit.core.key_policy.findings import Finding, Grant, analyze_key_policy
from nitrokit.core.key_policy.rules import RULES, Rule, Severity
from nitrokit.core.key_policy.statements import ATTESTED_ACTIONS, build_key_policy

__all__ = [
    "ATTESTED_ACTIONS",
    "RULES",
    "AccessRequest",
    "Decision",
    "Finding",
    "Grant",
    "PolicyError",
    "Rule",
    "Severity",
    "Statement",
    "analyze_key_policy",
    "authorize",
    "build_key_policy",
    "evaluate",
    "evaluate_identity",
    "parse_policy",
    "policy_differences",
]
