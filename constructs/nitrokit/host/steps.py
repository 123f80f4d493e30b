"""The bootstrap's steps. Each can be repeated at any time: what is right already is left alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from nitrokit.host import enclave
from nitrokit.host.commands import nitro_cli, run
from nitrokit.host.config import FOLDER, AgentError, Config, parse, write_atomically

_ETC = Path("/etc")
_NE_CPUS = Path("/sys/module/nitro_enclaves/parameters/ne_cpus")
_LOCK = Path("/run/nitrokit-agent.lock")
_ALLOCATOR = "nitro-enclaves-allocator.service"
_HEALTHY_WITHIN = 120.0
_DRAINING_TRIES = 5


def install(config_text: str) -> Dict[str, Any]:
    """Write the configuration; install nitro-cli where it is missing. Raises AgentError."""
    config = parse(config_text)
    write_atomically(FOLDER / f"{config.name}.json", config_text)
    if shutil.which("nitro-cli") is None:
        run(["dnf", "install", "--assumeyes", "aws-nitro-enclaves-cli"], "installing nitro-cli", "install")
    return {"enclave": config.name}


def allocate(config: Config) -> Dict[str, Any]:
    """Reserve the pool and read it back: the allocator has been known to say success on failure (nitro-cli issue 313). Raises AgentError."""
    # Not YAML: a shell script reads it, and a comment behind a value would break it (nitro-cli:bootstrap/nitro-enclaves-allocator).
    text = f"---\nmemory_mib: {config.memory_mib}\ncpu_count: {config.cpu_count}\n"
    changed = write_atomically(_ETC / "nitro_enclaves" / "allocator.yaml", text)
    if changed or len(_pool()) < config.cpu_count:
        if nitro_cli(["describe-enclaves"], "listing enclaves"):
            # The allocator refuses to run while an enclave does.
            run(["nitro-cli", "terminate-enclave", "--all"], "ending enclaves of the old pool", "allocate")
        run(["systemctl", "enable", _ALLOCATOR], "enabling the allocator", "allocate")
        run(["systemctl", "restart", _ALLOCATOR], "reserving the pool", "allocate")
    pool = _pool()
    if len(pool) < config.cpu_count:
        raise AgentError(
            "pool",
            "the allocator reserved too few CPUs",
            got=",".join(map(str, pool)) or "none",
            expected=config.cpu_count,
            do="take a larger instance type",
        )
    return {"cpus": pool, "memory_mib": config.memory_mib}


def _pool() -> List[int]:
    """The CPUs that are reserved, from the driver: "2,3" or "2-3"."""
    try:
        text = _NE_CPUS.read_text().strip()
    except OSError:
        return []
    cpus: List[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def image(config: Config) -> Dict[str, Any]:
    """Fetch the image, unless it is there; it appears only when its SHA-256 is right. Raises AgentError."""
    if config.eif.is_file() and _sha256(config.eif) == config.image_sha256:
        return {"image": str(config.eif), "fetched": False}
    config.eif.parent.mkdir(parents=True, exist_ok=True)
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
    """Start the proxies and the enclave, one launch at a time on this host. A right one that runs is left alone. Raises AgentError."""
    verify(config)
    _start_proxies(config)
    _LOCK.parent.mkdir(exist_ok=True)
    with _LOCK.open("w") as lock:
        # Two launches at once fail both: each binds the parent's port 9000 (nitro-cli issue 516).
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = [one for one in nitro_cli(["describe-enclaves"], "listing enclaves") if one.get("EnclaveName") == config.name]
        if any(_is_right(one, config) for one in running):
            return {"started": False, "enclave_id": running[0]["EnclaveID"]}
        for one in running:
            run(["nitro-cli", "terminate-enclave", "--enclave-id", one["EnclaveID"]], "ending the old enclave", "nitro-cli")
        started = _launch(config)
    return {"started": True, "enclave_id": started["EnclaveID"]}


def _is_right(one: Dict[str, Any], config: Config) -> bool:
    measurements = one.get("Measurements") or {}
    same = all(str(measurements.get(name, "")).lower() == locked for name, locked in config.measurements.items())
    return same and one.get("State") == "RUNNING" and one.get("Flags") == "NONE" and one.get("EnclaveCID") == config.cid


def _launch(config: Config) -> Dict[str, Any]:
    """Launch; CPUs and memory of an enclave that just ended may still be draining (nitro-cli issue 433): try again a few times."""
    command = ["run-enclave", "--eif-path", str(config.eif), "--cpu-count", str(config.cpu_count), "--memory", str(config.memory_mib)]
    command += ["--enclave-cid", str(config.cid), "--enclave-name", config.name]
    for attempt in range(_DRAINING_TRIES):
        try:
            return dict(nitro_cli(command, "starting the enclave"))
        except AgentError as error:
            if "[ E29 ]" not in str(error.got) or attempt == _DRAINING_TRIES - 1:
                raise
            time.sleep(2**attempt)
    raise AssertionError("unreachable")


def _start_proxies(config: Config) -> None:
    """Units of our own: the bundled service has a fixed port and a commercial-partition host name (nitro-cli issue 699)."""
    for proxy in config.proxies:
        unit = f"nitrokit-vsock-proxy-{proxy.vsock_port}.service"
        allowlist = _ETC / "nitrokit" / f"vsock-proxy-{proxy.vsock_port}.yaml"
        changed = write_atomically(allowlist, f"allowlist:\n- {{address: {proxy.host}, port: {proxy.port}}}\n")
        changed = (
            write_atomically(_ETC / "systemd" / "system" / unit, _unit(proxy.vsock_port, proxy.host, proxy.port, allowlist)) or changed
        )
        if changed:
            run(["systemctl", "daemon-reload"], "reloading systemd", "proxy")
        run(["systemctl", "enable", unit], "enabling the proxy", "proxy")
        run(["systemctl", "restart" if changed else "start", unit], f"starting the proxy to {proxy.host}", "proxy")


def _unit(vsock_port: int, host: str, port: int, allowlist: Path) -> str:
    return (
        f"[Unit]\nDescription=vsock-proxy to {host} for enclaves\nAfter=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nType=simple\nExecStart=/usr/bin/vsock-proxy --num_workers 32 --config {allowlist} {vsock_port} {host} {port}\nRestart=always\nRestartSec=1\n"
        "NoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n\n[Install]\nWantedBy=multi-user.target\n"
    )


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
