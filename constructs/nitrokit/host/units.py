"""systemd units of the agent: one for each enclave, one that follows its log. The unit keeps an enclave up; the agent's commands only say which."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List

from nitrokit.host.commands import run, succeeds
from nitrokit.host.config import Config
from nitrokit.host.files import remove, write_atomically

FOLDER = Path("/etc/systemd/system")
_ENCLAVE, _LOGS = "nitrokit-enclave-", "nitrokit-logs-"
_AGENT, _PYTHON = "/opt/nitrokit/agent.pyz", Path("/opt/nitrokit/python3")
STARTS_WITHIN = 2400.0
"""Three boots (240 s each): of an enclave that hangs, of a fresh one, and of the image that is gone back to, each with up to ten minutes until it is healthy."""
NEVER_GIVEN_UP = "StartLimitInterval=0\n"
"""Of [Service], for Amazon Linux 2: systemd 219 does not know [Unit]'s StartLimitIntervalSec yet (systemd NEWS, 230)."""


def enclave_unit(name: str) -> str:
    """The name of an enclave's unit."""
    return f"{_ENCLAVE}{name}.service"


def logs_unit(name: str) -> str:
    """The name of the unit that follows an enclave's log."""
    return f"{_LOGS}{name}.service"


def install(config: Config) -> bool:
    """Write and enable an enclave's units; whether the enclave's own changed. Raises AgentError."""
    changed = write_atomically(FOLDER / enclave_unit(config.name), _enclave(config))
    write_atomically(FOLDER / logs_unit(config.name), _logs(config))
    # Also where nothing changed: an agent that was killed after writing may not have come this far.
    run(["systemctl", "daemon-reload"], "reloading systemd", "run")
    run(["systemctl", "enable", enclave_unit(config.name)], "enabling the enclave's unit", "run")
    return changed


def uninstall(name: str) -> None:
    """Stop an enclave for good. Raises AgentError."""
    for unit in (logs_unit(name), enclave_unit(name)):
        if (FOLDER / unit).exists():
            run(["systemctl", "disable", "--now", unit], f"stopping {unit}", "run", timeout=STARTS_WITHIN)
            remove(FOLDER / unit)
    run(["systemctl", "daemon-reload"], "reloading systemd", "run")


def is_active(unit: str) -> bool:
    """Whether a unit runs and is ready."""
    return succeeds(["systemctl", "is-active", "--quiet", unit])


def stop_enclaves() -> None:
    """Stop all enclaves' units, and with them the enclaves. Raises AgentError."""
    units = _enclave_units()
    if units:
        run(["systemctl", "stop", *units], "ending enclaves of the old pool", "allocate", timeout=STARTS_WITHIN)


def start_enclaves() -> None:
    """Start again what is enabled; how it goes is told by each enclave's own health. Raises AgentError."""
    units = [one for one in _enclave_units() if succeeds(["systemctl", "is-enabled", "--quiet", one]) and not is_active(one)]
    if units:
        run(["systemctl", "start", "--no-block", *units], "starting enclaves again", "allocate")


def _enclave_units() -> List[str]:
    return sorted(path.name for path in FOLDER.glob(f"{_ENCLAVE}*.service"))


def _enclave(config: Config) -> str:
    proxies = " ".join(f"nitrokit-vsock-proxy-{one.vsock_port}.service" for one in config.proxies)
    return (
        f"[Unit]\nDescription=Enclave {config.name}\n"
        f"Wants=network-online.target {logs_unit(config.name)} {proxies}\n"
        f"After=network-online.target nitro-enclaves-allocator.service {proxies}\n"
        # Never given up: what keeps an enclave from running may pass.
        "StartLimitIntervalSec=0\n\n"
        "[Service]\nType=notify\nNotifyAccess=main\n"
        f"ExecStart={_command('serve', config.name)}\nExecReload=/bin/kill -HUP $MAINPID\n"
        f"Restart=always\nRestartSec=2\nWatchdogSec=180\nTimeoutStartSec={STARTS_WITHIN:.0f}\nTimeoutStopSec=90\n"
        # The enclave's own process outlives an agent that crashed, which finds it again.
        f"{NEVER_GIVEN_UP}KillMode=process\nProtectHome=yes\nNoNewPrivileges=yes\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _logs(config: Config) -> str:
    unit = enclave_unit(config.name)
    return (
        f"[Unit]\nDescription=Log of the enclave {config.name}\nPartOf={unit}\nAfter={unit}\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=simple\nExecStart={_command('follow', config.name)}\n"
        f"SyslogIdentifier=enclave-{config.name}\nRestart=on-failure\nRestartSec=2\n{NEVER_GIVEN_UP}"
        "ProtectHome=yes\nProtectSystem=full\nPrivateTmp=yes\nNoNewPrivileges=yes\n"
    )


def _command(command: str, name: str) -> str:
    # The same whoever runs the agent: a unit that changed would start its enclave again.
    return f"{_PYTHON if _PYTHON.exists() else sys.executable} {_AGENT} {command} --enclave {name}"
