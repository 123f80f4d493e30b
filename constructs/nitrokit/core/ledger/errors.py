"""What is wrong with a ledger, or with what somebody wants to write into it."""

from __future__ import annotations

from nitrokit.errors import NitrokitError


class LedgerError(NitrokitError):
    """A ledger, a proof, a checkpoint or an entry that does not hold."""

    area = "ledger"
