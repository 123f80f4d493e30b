"""What became of a configuration: written by the enclave's unit, read by the commands. /var/lib/nitrokit/<name>/outcome.json."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any, Dict, Optional

from nitrokit.host.config import AgentError, Config
from nitrokit.host.files import read_state, write_atomically

RUNNING, FAILED, ROLLED_BACK = "running", "failed", "rolled-back"


@dataclass(frozen=True)
class Outcome:
    """``digest``: of the configuration that was tried; ``error``: as AgentError.as_dict gives it; ``agent``: which agent supervises."""

    digest: str
    status: str
    enclave_id: str
    agent: str
    error: Optional[Dict[str, Any]]
    at: float


def digest_of(text: str) -> str:
    """A configuration's name by content."""
    return hashlib.sha256(text.encode()).hexdigest()


def record(config: Config, digest: str, status: str, *, enclave_id: str = "", agent: str = "", error: Optional[AgentError] = None) -> None:
    """Write what became of it."""
    told = None if error is None else error.as_dict()
    value = {"digest": digest, "status": status, "enclave_id": enclave_id, "agent": agent, "error": told, "at": time.time()}
    write_atomically(config.state / "outcome.json", json.dumps(value))


def read(config: Config) -> Optional[Outcome]:
    """The last one; None where nothing was tried yet."""
    value = read_state(config.state / "outcome.json")
    try:
        return Outcome(**value)
    except TypeError:
        return None
