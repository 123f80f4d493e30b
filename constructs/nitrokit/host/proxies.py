"""Units of our own for vsock-proxy: the bundled service has a fixed port and a commercial-partition host name (aws-nitro-enclaves-cli issue 699)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Set

from nitrokit.host import config as configuration
from nitrokit.host import units
from nitrokit.host.commands import run
from nitrokit.host.config import FOLDER, STATE, AgentError, Config, Proxy
from nitrokit.host.files import read_state, remove, write_atomically

_UNITS = Path("/etc/systemd/system")
_PREFIX = "nitrokit-vsock-proxy-"
# The default, 4, is the number of connections that can be open at once (aws-nitro-enclaves-cli:vsock_proxy/README.md).
_WORKERS = 32
_ENDPOINT = re.compile(r"(?:[a-z0-9-]+\.)+([a-z]{2}(?:-[a-z]+)+-[0-9])\.(amazonaws\.com(?:\.cn)?)")


def start_proxies(config: Config) -> None:
    """Each of the enclave's proxies runs as configured; one that does is left alone. Raises AgentError."""
    for proxy in config.proxies:
        _check_partition(proxy)
        unit = f"{_PREFIX}{proxy.vsock_port}.service"
        allowlist = FOLDER / f"vsock-proxy-{proxy.vsock_port}.yaml"
        changed = write_atomically(allowlist, f"allowlist:\n- {{address: {proxy.host}, port: {proxy.port}}}\n")
        changed = write_atomically(_UNITS / unit, _unit(proxy, allowlist)) or changed
        # Also where nothing changed: an agent that was killed after writing may not have come this far.
        run(["systemctl", "daemon-reload"], "reloading systemd", "proxy")
        run(["systemctl", "enable", unit], "enabling the proxy", "proxy")
        run(["systemctl", "restart" if changed else "start", unit], f"starting the proxy to {proxy.host}", "proxy")


def remove_unused() -> None:
    """Stop proxies that no enclave needs: not what is to run, nor what it would go back to. Raises AgentError."""
    needed = _needed()
    for path in _UNITS.glob(f"{_PREFIX}*.service"):
        port = path.name[len(_PREFIX) : -len(".service")]
        if port not in needed:
            run(["systemctl", "disable", "--now", path.name], "stopping a proxy that nobody needs", "proxy")
            remove(path)
            remove(FOLDER / f"vsock-proxy-{port}.yaml")


def _needed() -> Set[str]:
    states = [read_state(STATE / one.name / f"{which}.json") for one in configuration.installed() for which in ("current", "good")]
    return {str(proxy.get("vsock_port")) for state in states for proxy in state.get("proxies", [])}


def _check_partition(proxy: Proxy) -> None:
    """An endpoint of AWS has its partition's domain; the image names the endpoint, so only another image mends it."""
    region, found = os.environ.get("AWS_DEFAULT_REGION", ""), _ENDPOINT.fullmatch(proxy.host)
    if found is None or not region:
        return
    domain = "amazonaws.com.cn" if found.group(1).startswith("cn-") else "amazonaws.com"
    if found.group(2) != domain or found.group(1).startswith("cn-") != region.startswith("cn-"):
        raise AgentError(
            "partition",
            "an [[egress]] of the image is an endpoint of another partition",
            got=f"{proxy.host} in {region}",
            expected=f"a host of {region}'s partition: *.amazonaws.com.cn in China, *.amazonaws.com elsewhere",
            do="correct [[egress]] in enclave.toml, and lock the image again",
        )


def _unit(proxy: Proxy, allowlist: Path) -> str:
    return (
        f"[Unit]\nDescription=vsock-proxy to {proxy.host} for enclaves\nAfter=network-online.target\nWants=network-online.target\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=simple\n"
        f"ExecStart=/usr/bin/vsock-proxy --num_workers {_WORKERS} --config {allowlist} {proxy.vsock_port} {proxy.host} {proxy.port}\n"
        f"Restart=always\nRestartSec=1\n{units.NEVER_GIVEN_UP}NoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
