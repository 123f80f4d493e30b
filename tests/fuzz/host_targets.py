"""What the host agent reads: its configuration, and what an enclave answers."""

from __future__ import annotations

import json

from nitrokit.host.config import parse
from nitrokit.host.diagnose import scrub
from nitrokit.host.logs import lines_of


def agent_config(data: bytes) -> None:
    """A configuration that passes holds nothing that would break a unit file or a command line."""
    config = parse(data.decode(errors="replace"))
    told = [config.name, config.image_uri, config.image_version, config.docker_uri, config.log_group, config.parameter, config.group]
    told += [proxy.host for proxy in config.proxies]
    for word in told:
        assert not word.startswith("-")
        assert not set(word) & set(' \t\r\n\0"\\$;%')


def agent_log(data: bytes) -> None:
    """An enclave's piece of a log, on its way to the journal and into an archive of diagnostics."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(answer, dict):
        for line in lines_of(answer)[0]:
            scrub(line)


TARGETS = {"agent_config": agent_config, "agent_log": agent_log}


def _configurations() -> list[bytes]:
    pcr = "ab" * 48
    value = {
        "name": "hello", "image_uri": "s3://bucket/a.eif", "image_sha256": "0" * 64, "measurements": {"PCR0": pcr, "PCR1": pcr, "PCR2": pcr},
        "cpu_count": 2, "memory_mib": 256, "cid": 16, "proxies": [{"vsock_port": 8001, "host": "kms.us-east-1.amazonaws.com", "port": 443}],
        "pool": [{"name": "other", "cpu_count": 2, "memory_mib": 64}], "group": "g", "log_group": "/l", "parameter": "/p", "control_port": 5001, "healthy_within": 9,
    }  # fmt: skip
    docker = {**value, "image_uri": "", "image_sha256": "", "docker_uri": "1.dkr.ecr.us-east-1.amazonaws.com/a:b", "control_port": None}
    return [json.dumps(one).encode() for one in (value, docker)]


MADE = {
    "agent_config": _configurations,
    "agent_log": lambda: [json.dumps({"lines": ["a", "password=x"], "streams": ["stdout", "stderr"], "next": 2, "dropped": 1}).encode()],
}
