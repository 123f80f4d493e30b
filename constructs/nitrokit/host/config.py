"""What the agent knows of one enclave: /etc/nitrokit/<name>.json, written from the SSM document's parameter."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from nitrokit.errors import NitrokitError

FOLDER = Path("/etc/nitrokit")
STATE = Path("/var/lib/nitrokit")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


class AgentError(NitrokitError):
    """Something on the parent instance that keeps an enclave from running."""

    area = "agent"


@dataclass(frozen=True)
class Proxy:
    """A vsock-proxy: the parent's ``vsock_port`` leads to ``host``:``port``."""

    vsock_port: int
    host: str
    port: int


@dataclass(frozen=True)
class Config:
    """``measurements``: "PCR0" … → hex, the lock. ``memory_mib``, ``cpu_count``: of the enclave, and so of the pool."""

    name: str
    image_uri: str
    image_sha256: str
    measurements: Dict[str, str]
    cpu_count: int
    memory_mib: int
    cid: int
    proxies: List[Proxy]

    @property
    def eif(self) -> Path:
        return STATE / self.name / "image.eif"


def check_name(name: str) -> str:
    """Refuse a name that is not an enclave's. Raises AgentError."""
    if not _NAME.fullmatch(name):
        raise AgentError("name", "not an enclave's name", got=name, expected=_NAME.pattern)
    return name


def load(name: str) -> Config:
    """Read an enclave's configuration. Raises AgentError."""
    path = FOLDER / f"{check_name(name)}.json"
    try:
        return parse(path.read_text())
    except OSError as error:
        raise AgentError(
            "no-config", f"no configuration of {name}", got=str(error), expected=str(path), do="run the install step first"
        ) from error


def parse(text: str) -> Config:
    """Parse a configuration. Raises AgentError."""
    try:
        value: Dict[str, Any] = json.loads(text)
        proxies = [Proxy(int(one["vsock_port"]), str(one["host"]), int(one["port"])) for one in value["proxies"]]
        measurements = {str(key): str(pcr).lower() for key, pcr in value["measurements"].items()}
        config = Config(
            check_name(value["name"]),
            value["image_uri"],
            value["image_sha256"],
            measurements,
            int(value["cpu_count"]),
            int(value["memory_mib"]),
            int(value["cid"]),
            proxies,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AgentError("config", "the configuration is damaged", got=repr(error)[:200], do="deploy again") from error
    if not {"PCR0", "PCR1", "PCR2"} <= set(measurements):
        raise AgentError(
            "config", "the configuration locks no measurements", got=", ".join(sorted(measurements)), expected="PCR0, PCR1, PCR2"
        )
    return config


def write_atomically(path: Path, text: str) -> bool:
    """Write a file whole or not at all; False when it says so already."""
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        if temporary.exists():
            temporary.unlink()
    return True
