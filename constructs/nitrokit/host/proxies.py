"""Units of our own for vsock-proxy: the bundled service has a fixed port and a commercial-partition host name (aws-nitro-enclaves-cli issue 699)."""

from __future__ import annotations

from pathlib import Path

from nitrokit.host.commands import run
from nitrokit.host.config import FOLDER, Config, Proxy, write_atomically

_UNITS = Path("/etc/systemd/system")
# The default, 4, is the number of connections that can be open at once (aws-nitro-enclaves-cli:vsock_proxy/README.md).
_WORKERS = 32


def start_proxies(config: Config) -> None:
    """Each of the enclave's proxies runs as configured; one that does is left alone. Raises AgentError."""
    for proxy in config.proxies:
        unit = f"nitrokit-vsock-proxy-{proxy.vsock_port}.service"
        allowlist = FOLDER / f"vsock-proxy-{proxy.vsock_port}.yaml"
        changed = write_atomically(allowlist, f"allowlist:\n- {{address: {proxy.host}, port: {proxy.port}}}\n")
        changed = write_atomically(_UNITS / unit, _unit(proxy, allowlist)) or changed
        # Also where nothing changed: an agent that was killed after writing may not have come this far.
        run(["systemctl", "daemon-reload"], "reloading systemd", "proxy")
        run(["systemctl", "enable", unit], "enabling the proxy", "proxy")
        run(["systemctl", "restart" if changed else "start", unit], f"starting the proxy to {proxy.host}", "proxy")


def _unit(proxy: Proxy, allowlist: Path) -> str:
    return (
        f"[Unit]\nDescription=vsock-proxy to {proxy.host} for enclaves\nAfter=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nType=simple\n"
        f"ExecStart=/usr/bin/vsock-proxy --num_workers {_WORKERS} --config {allowlist} {proxy.vsock_port} {proxy.host} {proxy.port}\n"
        "Restart=always\nRestartSec=1\nNoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
