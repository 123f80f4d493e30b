"""How a ledger lies in its DynamoDB table: the construct makes the table so, the store reads and writes it so.

One item a key: ``head`` (size, peaks, last leaf hash), ``entry/<sequence>`` (a record's bytes and the tree's hashes that it completed), ``id/<entry id>`` (its sequence number),
``checkpoints`` (how many), ``checkpoint/<number>`` (a signed note). Sequence numbers are dense, so ranges are read by key, and no partition takes all writes.
"""

from __future__ import annotations

KEY = "key"
INDEX = "by-enclave"
ENCLAVE, PLACE = "enclave", "place"
"""The index over entries: all of an enclave, by host and time (``place``)."""
HEAD = "head"
CHECKPOINTS = "checkpoints"


def entry_key(sequence: int) -> str:
    return f"entry/{sequence:012d}"


def id_key(entry_id: str) -> str:
    return f"id/{entry_id}"


def checkpoint_key(number: int) -> str:
    return f"checkpoint/{number:012d}"


def place(host: str, milliseconds: int) -> str:
    """Sorts by host, then by time: a host's name has no space, and all else that is printable sorts behind it."""
    return f"{host} {milliseconds:015d}"
