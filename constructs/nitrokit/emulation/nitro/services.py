"""The parent's services as far as enclaves need them: systemctl for the allocator and for vsock-proxy units, dnf for nitro-cli's packages."""

from __future__ import annotations

import re
import shlex
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nitrokit.emulation.nitro.hypervisor import Hypervisor, NitroError
from nitrokit.emulation.nitro.listeners import UnixListener
from nitrokit.runtime.streams import Relay

ALLOCATOR = "nitro-enclaves-allocator"
_NITRO_PACKAGES = ("aws-nitro-enclaves-cli", "aws-nitro-enclaves-cli-devel")


class Services:
    """systemctl and dnf of one parent. ``etc``: its /etc; ``routes``: where "host:port" leads in the emulated AWS."""

    def __init__(self, etc: Path, hypervisor: Hypervisor, routes: Mapping[str, tuple[str, int]]) -> None:
        self._etc = etc
        self._hypervisor = hypervisor
        self._routes = routes
        self._relay = Relay()
        self._proxies: dict[str, UnixListener] = {}
        self._active: set[str] = set()

    def systemctl(self, arguments: list[str]) -> dict[str, Any]:
        """Run a systemctl command line; {"exit", "stdout", "stderr"} as systemctl would."""
        words = [word for word in arguments if not word.startswith("-")]
        verb, units = (words[0], [word.removesuffix(".service") for word in words[1:]]) if words else ("", [])
        now = "--now" in arguments
        try:
            match verb:
                case "daemon-reload":
                    return _done()
                case "enable" if not now:
                    return _done()
                case "start" | "restart" | "enable":
                    for unit in units:
                        self._start(unit)
                    return _done()
                case "stop" | "disable":
                    for unit in units:
                        self._stop(unit)
                    return _done()
                case "is-active":
                    active = all(unit in self._active for unit in units)
                    return {"exit": 0 if active else 3, "stdout": "active\n" if active else "inactive\n", "stderr": ""}
        except NitroError as error:
            return {"exit": 1, "stdout": "", "stderr": f"Job for {units} failed: {error}\n"}
        return {"exit": 1, "stdout": "", "stderr": f"Unknown command verb {verb!r}.\n"}

    def dnf(self, arguments: list[str]) -> dict[str, Any]:
        """Installing nitro-cli's packages finds them there; others are not known."""
        packages = [word for word in arguments if not word.startswith("-")][1:]
        unknown = [package for package in packages if package not in _NITRO_PACKAGES]
        if unknown:
            return {"exit": 1, "stdout": "", "stderr": f"Error: Unable to find a match: {' '.join(unknown)}\n"}
        return {"exit": 0, "stdout": "Package is already installed.\nComplete!\n", "stderr": ""}

    def _start(self, unit: str) -> None:
        if unit == ALLOCATOR:
            values = parse_allocator((self._etc / "nitro_enclaves" / "allocator.yaml").read_text())
            self._hypervisor.allocate(cpu_count=values["cpu_count"], memory_mib=values["memory_mib"])
        else:
            self._stop(unit)
            self._proxies[unit] = self._proxy(unit)
        self._active.add(unit)

    def _stop(self, unit: str) -> None:
        self._active.discard(unit)
        if proxy := self._proxies.pop(unit, None):
            proxy.close()

    def _proxy(self, unit: str) -> UnixListener:
        """A vsock-proxy unit: its command line, its allowlist, its destination."""
        path = self._etc / "systemd" / "system" / f"{unit}.service"
        if not path.is_file():
            raise NitroError("E00", f"Unit {unit}.service not found")
        found = re.search(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE)
        port, host, remote_port, config = parse_proxy_command(shlex.split(found.group(1)) if found else [])
        allowed = parse_allowlist((self._etc / config.removeprefix("/etc/")).read_text())
        if (host, remote_port) not in allowed:
            raise NitroError("E00", f"vsock-proxy: {host}:{remote_port} is not in the allowlist {config}")
        route = self._routes.get(f"{host}:{remote_port}")
        if route is None:
            raise NitroError("E00", f"vsock-proxy: {host}:{remote_port} cannot be resolved: the emulated AWS does not have it")
        return UnixListener(
            self._hypervisor.vsock / "3" / str(port),
            lambda connection: threading.Thread(target=_forward, args=(connection, route, self._relay), daemon=True).start(),
        )

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()


def _done() -> dict[str, Any]:
    return {"exit": 0, "stdout": "", "stderr": ""}


def _forward(inner: socket.socket, route: tuple[str, int], relay: Relay) -> None:
    try:
        outer = socket.create_connection(route, timeout=10)
    except OSError:
        inner.close()
        return
    relay.join(inner, outer)


def parse_allocator(text: str) -> dict[str, int]:
    """allocator.yaml as the allocator's shell script reads it (aws-nitro-enclaves-cli:bootstrap/nitro-enclaves-allocator): not YAML. Raises NitroError."""
    lines = text.splitlines()
    if "---" not in lines:
        raise NitroError("E00", "allocator.yaml has no --- line")
    values: dict[str, str] = {}
    for line in lines[lines.index("---") + 1 :]:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, _, value = line.partition(":")
        if key not in ("memory_mib", "cpu_count", "cpu_pool") or not value.strip():
            raise NitroError("E00", f"allocator.yaml: unknown key or empty value: {line!r}")
        values[key] = value.strip()
    if "memory_mib" not in values or ("cpu_count" in values) == ("cpu_pool" in values):
        raise NitroError("E00", "allocator.yaml needs memory_mib and exactly one of cpu_count and cpu_pool")
    if "cpu_pool" in values:
        raise NitroError("E00", "allocator.yaml: cpu_pool is not emulated; use cpu_count")
    if not all(value.isdigit() for value in values.values()):
        raise NitroError("E00", "allocator.yaml: a value is not a number (a comment behind it breaks it)")
    return {key: int(value) for key, value in values.items()}


def parse_proxy_command(words: list[str]) -> tuple[int, str, int, str]:
    """(vsock port, host, remote port, allowlist file) of ``vsock-proxy [-w N] [--config F] port host port``. Raises NitroError."""
    config, position, rest = "/etc/nitro_enclaves/vsock-proxy.yaml", [], iter(words[1:])
    for word in rest:
        if word == "--config":
            config = next(rest, "")
        elif word in ("-w", "--num_workers"):
            next(rest, "")
        elif not word.startswith("-"):
            position.append(word)
    if len(position) != 3 or not position[0].isdigit() or not position[2].isdigit():
        raise NitroError("E00", f"vsock-proxy: wrong arguments {words}")
    return int(position[0]), position[1], int(position[2]), config


def parse_allowlist(text: str) -> set[tuple[str, int]]:
    """vsock-proxy.yaml: ``allowlist:`` with ``- {address: host, port: number}`` lines."""
    return {(host, int(port)) for host, port in re.findall(r"-\s*\{\s*address:\s*([^,\s]+)\s*,\s*port:\s*(\d+)\s*\}", text)}
