"""What is wrong with a ledger, or with what somebody wants to write into it."""

from __future__ import annotations

from nitrokit.errors import NitrokitError, UsageError


class LedgerError(NitrokitError):
    """A ledger, a proof, a checkpoint or an entry that does not hold."""

    area = "ledger"


class LedgerKeyError(UsageError):
    """A key that cannot sign a ledger's checkpoints."""

    area = "ledger"
