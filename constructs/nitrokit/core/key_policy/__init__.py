"""KMS key policies bound to measurements: building them, and evaluating any policy as IAM does."""

from nitrokit.core.key_policy.evaluate import AccessRequest, Decision, evaluate, evaluate_identity
from nitrokit.core.key_policy.matching import PolicyError
from nitrokit.core.key_policy.statements import ATTESTED_ACTIONS, build_key_policy

__all__ = ["ATTESTED_ACTIONS", "AccessRequest", "Decision", "PolicyError", "build_key_policy", "evaluate", "evaluate_identity"]
