"""The bootstrap's steps. Each can be repeated at any time: what is right already is left alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict, Optional

from nitrokit.host import enclave
from nitrokit.host.commands import nitro_cli, run
from nitrokit.host.config import FOLDER, AgentError, Config, parse, write_atomically
from nitrokit.host.proxies import start_proxies

_HEALTHY_WITHIN = 120.0
_DRAINING_TRIES, _DRAINING_WAIT = 6, 0.5


def install(name: str, config_text: str) -> Dict[str, Any]:
    """Write the configuration of the enclave ``name``; install nitro-cli where it is missing. Raises AgentError."""
    config = parse(config_text)
    if config.name != name:
        raise AgentError("config", "the configuration is another enclave's", got=config.name, expected=name, do="deploy again")
    if shutil.which("nitro-cli") is None:
        run(["dnf", "install", "--assumeyes", "aws-nitro-enclaves-cli"], "installing nitro-cli", "install")
    write_atomically(FOLDER / f"{config.name}.json", config_text)
    return {"enclave": config.name}


def image(config: Config) -> Dict[str, Any]:
    """Fetch the image, unless it is there; it appears only when its SHA-256 is right. Raises AgentError."""
    if config.eif.is_file() and _sha256(config.eif) == config.image_sha256:
        return {"image": str(config.eif), "fetched": False}
    config.eif.parent.mkdir(parents=True, exist_ok=True)
    # One name: what a killed agent left behind is overwritten, and does not pile up.
    temporary = config.eif.with_suffix(".part")
    try:
        run(["aws", "s3", "cp", "--only-show-errors", config.image_uri, str(temporary)], "fetching the image", "image")
        got = _sha256(temporary)
        if got != config.image_sha256:
            raise AgentError(
                "image-sha256",
                "the fetched image is not the one deployed",
                got=got,
                expected=config.image_sha256,
                do="deploy again; if it stays, somebody changed the object",
            )
        os.replace(temporary, config.eif)
    finally:
        if temporary.exists():
            temporary.unlink()
    return {"image": str(config.eif), "fetched": True}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def verify(config: Config, eif: Optional[Path] = None) -> Dict[str, Any]:
    """Compare the image's PCRs with the lock; refuse it naming every PCR that differs. Raises AgentError."""
    path = eif or config.eif
    measured = nitro_cli(["describe-eif", "--eif-path", str(path)], "measuring the image").get("Measurements", {})
    differing = [name for name, locked in sorted(config.measurements.items()) if str(measured.get(name, "")).lower() != locked]
    if differing:
        raise AgentError(
            "drift",
            f"{path} is not the locked image: {', '.join(differing)} differ",
            got="; ".join(f"{name} {measured.get(name, 'nothing')}" for name in differing),
            expected="; ".join(f"{name} {config.measurements[name]}" for name in differing),
            do="do not run it; find out where it comes from, or lock and deploy the new image",
        )
    return {"image": str(path), "measurements": "as locked"}


def run_enclave(config: Config) -> Dict[str, Any]:
    """Start the proxies and the enclave. A right one that runs is left alone. Raises AgentError."""
    verify(config)
    start_proxies(config)
    running = [one for one in nitro_cli(["describe-enclaves"], "listing enclaves") if one.get("EnclaveName") == config.name]
    right = next((one for one in running if _is_right(one, config)), None)
    if right is not None:
        return {"started": False, "enclave_id": right["EnclaveID"]}
    for one in running:
        run(["nitro-cli", "terminate-enclave", "--enclave-id", one["EnclaveID"]], "ending the old enclave", "nitro-cli")
    return {"started": True, "enclave_id": _launch(config)["EnclaveID"]}


def _is_right(one: Dict[str, Any], config: Config) -> bool:
    measurements = one.get("Measurements") or {}
    same = all(str(measurements.get(name, "")).lower() == locked for name, locked in config.measurements.items())
    sized = one.get("NumberOfCPUs") == config.cpu_count and int(one.get("MemoryMiB") or 0) >= config.memory_mib
    return same and sized and one.get("State") == "RUNNING" and one.get("Flags") == "NONE" and one.get("EnclaveCID") == config.cid


def _launch(config: Config) -> Dict[str, Any]:
    """Launch; CPUs and memory of an enclave that just ended may still be draining (aws-nitro-enclaves-cli issue 433): try again a few times."""
    command = ["run-enclave", "--eif-path", str(config.eif), "--cpu-count", str(config.cpu_count), "--memory", str(config.memory_mib)]
    command += ["--enclave-cid", str(config.cid), "--enclave-name", config.name]
    for attempt in range(_DRAINING_TRIES):
        try:
            return dict(nitro_cli(command, "starting the enclave"))
        except AgentError as error:
            if "[ E29 ]" not in str(error.got) or attempt == _DRAINING_TRIES - 1:
                raise
            time.sleep(_DRAINING_WAIT * 2**attempt)
    raise AssertionError("unreachable")


def health(config: Config) -> Dict[str, Any]:
    """Wait until the enclave answers, and check that it is the locked one in production mode. Raises AgentError."""
    state = enclave.wait_until_up(config.name, _HEALTHY_WITHIN)
    if not _is_right(state["enclave"], config):
        raise AgentError(
            "wrong-enclave",
            "another enclave runs under this name",
            got=str(state["enclave"].get("Flags")),
            expected="the locked image, not in debug mode",
            do="run the run step again",
        )
    return {"status": "healthy", "enclave_id": state["enclave"]["EnclaveID"]}
