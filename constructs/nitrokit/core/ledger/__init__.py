"""The ledger: which code held the data, and when. Append-only and hash-chained; proofs as in RFC 9162, checkpoints and files as in C2SP's tlog-checkpoint and tlog-tiles."""

from nitrokit.core.ledger.audit import Log, walk
from nitrokit.core.ledger.checkpoint import Checkpoint, UnverifiedCheckpoint, parse_checkpoint, sign_checkpoint, verify_checkpoint
from nitrokit.core.ledger.entry import FAIL, PASS, UNREACHABLE, LedgerEntry, LedgerRecord, parse_record, reference_sets_digest
from nitrokit.core.ledger.errors import LedgerError, LedgerKeyError
from nitrokit.core.ledger.history import Answer, Run, Sighting, answer, sight, verify_evidence
from nitrokit.core.ledger.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash
from nitrokit.core.ledger.note import NoteKey, NoteSigner, load_public_key, local_signer
from nitrokit.core.ledger.proofs import consistency_proof, inclusion_proof, root_of, verify_consistency, verify_inclusion
from nitrokit.core.ledger.tiles import TiledLedger

__all__ = [
    "EMPTY_ROOT",
    "FAIL",
    "PASS",
    "UNREACHABLE",
    "Answer",
    "Checkpoint",
    "Frontier",
    "LedgerEntry",
    "LedgerError",
    "LedgerKeyError",
    "LedgerRecord",
    "Log",
    "NoteKey",
    "NoteSigner",
    "Run",
    "Sighting",
    "TiledLedger",
    "UnverifiedCheckpoint",
    "answer",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "load_public_key",
    "local_signer",
    "node_hash",
    "parse_checkpoint",
    "parse_record",
    "reference_sets_digest",
    "root_of",
    "sight",
    "sign_checkpoint",
    "verify_checkpoint",
    "verify_consistency",
    "verify_evidence",
    "verify_inclusion",
    "walk",
]
