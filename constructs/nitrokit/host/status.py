"""Actual state: what runs on this parent, beside what was to run."""

from __future__ import annotations

from typing import Any, Dict, List

from nitrokit._version import __version__
from nitrokit.host import config as configuration
from nitrokit.host import launch, outcome, pool, units
from nitrokit.host.config import AgentError, Config


def status() -> Dict[str, Any]:
    """All enclaves, the pool, and what else runs here. Raises AgentError only for a configuration that is damaged."""
    try:
        running, problem = launch.running(), None
    except AgentError as error:
        running, problem = [], str(error)
    configs = configuration.installed()
    names = {one.name for one in configs}
    return {
        "agent": __version__,
        "enclaves": [_enclave(one, running) for one in configs],
        "foreign": [one.get("EnclaveID") for one in running if one.get("EnclaveName") not in names],
        "pool": {"cpus": pool.cpus(), "memory_mib": pool.memory()},
        **({"problem": problem} if problem else {}),
    }


def _enclave(config: Config, running: List[Dict[str, Any]]) -> Dict[str, Any]:
    found = next((one for one in running if one.get("EnclaveName") == config.name), None)
    last = outcome.read(config)
    wanted = outcome.digest_of(configuration.path(config.name).read_text())
    return {
        "name": config.name,
        "wanted": {"measurements": config.measurements, "cid": config.cid, "cpu_count": config.cpu_count, "memory_mib": config.memory_mib},
        "image_here": config.eif.is_file(),
        "unit_active": units.is_active(units.enclave_unit(config.name)),
        "running": None
        if found is None
        else {key: found.get(key) for key in ("EnclaveID", "EnclaveCID", "State", "Flags", "Measurements")},
        "as_wanted": found is not None and launch.is_right(found, config),
        "last": None if last is None else {"status": last.status, "of_wanted": last.digest == wanted, "error": last.error, "at": last.at},
    }
