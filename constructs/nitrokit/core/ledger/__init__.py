"""The ledger: which code held the data, and when. Append-only and hash-chained; proofs as in RFC 9162, checkpoints and files as in C2SP's tlog-checkpoint and tlog-tiles."""

from nitrokit.core.ledger.entry import FAIL, PASS, UNREACHABLE, LedgerEntry, LedgerRecord, parse_record, reference_sets_digest
from nitrokit.core.ledger.errors import LedgerError
from nitrokit.core.ledger.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash
from nitrokit.core.ledger.proofs import consistency_proof, inclusion_proof, root_of, verify_consistency, verify_inclusion

__all__ = [
    "EMPTY_ROOT",
    "FAIL",
    "PASS",
    "UNREACHABLE",
    "Frontier",
    "LedgerEntry",
    "LedgerError",
    "LedgerRecord",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "parse_record",
    "reference_sets_digest",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]
