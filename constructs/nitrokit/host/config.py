"""What the agent knows of one enclave: /etc/nitrokit/<name>.json, written from the SSM document's parameter."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

from nitrokit.errors import NitrokitError

FOLDER = Path("/etc/nitrokit")
STATE = Path("/var/lib/nitrokit")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_S3_URI = re.compile(r"s3://[^\s]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PCR = re.compile(r"[0-9a-f]{96}")


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
        config = Config(
            name=check_name(value["name"]),
            image_uri=str(value["image_uri"]),
            image_sha256=str(value["image_sha256"]),
            measurements={str(key): str(pcr).lower() for key, pcr in value["measurements"].items()},
            cpu_count=int(value["cpu_count"]),
            memory_mib=int(value["memory_mib"]),
            cid=int(value["cid"]),
            proxies=[Proxy(int(one["vsock_port"]), str(one["host"]), int(one["port"])) for one in value["proxies"]],
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise AgentError("config", "the configuration is damaged", got=repr(error)[:200], do="deploy again") from error
    for what, good in _checks(config):
        if not good:
            raise AgentError("config", f"the configuration's {what} is not allowed", got=text[:400], do="deploy again")
    return config


def _checks(config: Config) -> List[Tuple[str, bool]]:
    """What would end up in a unit file or a command line, and the lock, which must not be empty."""
    locked = {"PCR0", "PCR1", "PCR2"} <= set(config.measurements) and all(_PCR.fullmatch(one) for one in config.measurements.values())
    return [
        ("image_uri", bool(_S3_URI.fullmatch(config.image_uri))),
        ("image_sha256", bool(_SHA256.fullmatch(config.image_sha256))),
        ("measurements", locked),
        ("cpu_count", config.cpu_count > 0),
        ("memory_mib", config.memory_mib >= 64),
        ("cid", 4 <= config.cid < 2**32 - 1),
        ("proxies", all(_HOST.fullmatch(one.host) and 0 < one.port < 65536 and one.vsock_port > 3 for one in config.proxies)),
    ]


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
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if temporary.exists():
            temporary.unlink()
    return True
