"""What the agent is to bring about for one enclave: the SSM document's parameter Config, kept as /etc/nitrokit/<name>.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from nitrokit.errors import NitrokitError

FOLDER = Path("/etc/nitrokit")
STATE = Path("/var/lib/nitrokit")
CONTROL_PORT = 5001
BUNDLED_PROXY_PORT = 8000
"""Held by nitro-enclaves-vsock-proxy.service where somebody starts it (aws-nitro-enclaves-cli issue 699)."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
BUCKET = "[a-z0-9][a-z0-9.-]{2,62}"
S3_KEY = re.compile(r"\w[\w!.*'()/-]{0,899}", re.ASCII)
_S3_URI = re.compile(f"s3://({BUCKET})/({S3_KEY.pattern})", re.ASCII)
_DOCKER_URI = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?/[a-z0-9._/-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", re.ASCII)
WORD = re.compile(r"([\w./][\w./-]{0,1023})?", re.ASCII)
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
class Need:
    """What an enclave takes of the pool."""

    name: str
    cpu_count: int
    memory_mib: int


@dataclass(frozen=True)
class Config:
    """``image_uri``: the EIF in S3 with its ``image_version`` ("" where the bucket has none) and ``image_sha256``; else ``docker_uri``: what nitro-cli builds it from.

    ``measurements``: "PCR0" … → hex, the lock. ``pool``: what all enclaves of this parent take, this one among them. ``group``: whose list that is; enclaves of the same group that it does
    not name are retired. ``control_port``: None for an image without nitrokit's init. ``healthy_within``: seconds from its boot. ``log_group``, ``parameter``: where to publish; "": nowhere.
    """

    name: str
    image_uri: str
    image_version: str
    image_sha256: str
    docker_uri: str
    measurements: Dict[str, str]
    cpu_count: int
    memory_mib: int
    cid: int
    proxies: List[Proxy]
    pool: List[Need]
    group: str
    control_port: Optional[int]
    healthy_within: int
    log_group: str
    parameter: str

    @property
    def state(self) -> Path:
        return STATE / self.name

    @property
    def eif(self) -> Path:
        """Named by content, so that the image of a running enclave is never overwritten by the next."""
        return self.state / "images" / f"{self.image_sha256 or self.measurements['PCR0']}.eif"

    @property
    def s3(self) -> Tuple[str, str]:
        """Bucket and key."""
        found = _S3_URI.fullmatch(self.image_uri)
        assert found is not None
        return found.group(1), found.group(2)


def check_name(name: str) -> str:
    """Refuse a name that is not an enclave's. Raises AgentError."""
    if not _NAME.fullmatch(name):
        raise AgentError("name", "not an enclave's name", got=name, expected=_NAME.pattern)
    return name


def path(name: str) -> Path:
    """Where the configuration of the enclave ``name`` is kept."""
    return FOLDER / f"{check_name(name)}.json"


def load(name: str) -> Config:
    """Read an enclave's configuration. Raises AgentError."""
    try:
        return parse(path(name).read_text(errors="replace"))
    except PermissionError:
        raise
    except OSError as error:
        here = ", ".join(sorted(one.stem for one in FOLDER.glob("*.json"))) or "none"
        raise AgentError(
            "no-config",
            f"no configuration of {name}",
            got=str(error),
            expected=f"{path(name)} (on this parent: {here})",
            do="run the install step first",
        ) from error


def installed() -> List[Config]:
    """All enclaves of this parent, by name. Raises AgentError."""
    return [load(one.stem) for one in sorted(FOLDER.glob("*.json"))]


def parse(text: str) -> Config:
    """Parse a configuration. Raises AgentError."""
    try:
        config = _from(json.loads(text))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise AgentError("config", "the configuration is damaged", got=repr(error)[:200], do="deploy again") from error
    for what, good in _checks(config):
        if not good:
            raise AgentError("config", f"the configuration's {what} is not allowed", got=text[:400], do="deploy again")
    return config


def _from(value: Dict[str, Any]) -> Config:
    own = Need(check_name(value["name"]), int(value["cpu_count"]), int(value["memory_mib"]))
    others = [Need(check_name(one["name"]), int(one["cpu_count"]), int(one["memory_mib"])) for one in value.get("pool", [])]
    control = value.get("control_port", CONTROL_PORT)
    return Config(
        name=own.name,
        image_uri=str(value.get("image_uri", "")),
        image_version=str(value.get("image_version", "")),
        image_sha256=str(value.get("image_sha256", "")),
        docker_uri=str(value.get("docker_uri", "")),
        measurements={str(key): str(pcr).lower() for key, pcr in value["measurements"].items()},
        cpu_count=own.cpu_count,
        memory_mib=own.memory_mib,
        cid=int(value["cid"]),
        proxies=[Proxy(int(one["vsock_port"]), str(one["host"]), int(one["port"])) for one in value["proxies"]],
        pool=[own, *(one for one in others if one.name != own.name)],
        group=str(value.get("group", "")),
        control_port=None if control is None else int(control) or None,  # 0: a null gets lost in the CDK's JSON
        healthy_within=int(value.get("healthy_within", 120)),
        log_group=str(value.get("log_group", "")),
        parameter=str(value.get("parameter", "")),
    )


def _checks(config: Config) -> List[Tuple[str, bool]]:
    """What would end up in a unit file or a command line, and the lock, which must not be empty."""
    locked = {"PCR0", "PCR1", "PCR2"} <= set(config.measurements) and all(_PCR.fullmatch(one) for one in config.measurements.values())
    from_s3 = bool(_S3_URI.fullmatch(config.image_uri) and _SHA256.fullmatch(config.image_sha256)) and not config.docker_uri
    from_docker = bool(_DOCKER_URI.fullmatch(config.docker_uri)) and not (config.image_uri or config.image_sha256)
    return [
        ("image", from_s3 or from_docker),
        ("measurements", locked),
        ("pool", len(config.pool) <= 4 and all(one.cpu_count > 0 and one.memory_mib >= 64 for one in config.pool)),
        ("cid", 4 <= config.cid < 2**32 - 1),
        ("control_port", config.control_port is None or config.control_port > 0),
        ("healthy_within", 1 <= config.healthy_within <= 600),
        ("proxies", all(_allowed(one) for one in config.proxies)),
        ("words", all(WORD.fullmatch(one) for one in (config.image_version, config.group, config.log_group, config.parameter))),
    ]


def _allowed(proxy: Proxy) -> bool:
    return bool(_HOST.fullmatch(proxy.host)) and 0 < proxy.port < 65536 and proxy.vsock_port > 3 and proxy.vsock_port != BUNDLED_PROXY_PORT
