"""The parent's services as far as enclaves need them: systemctl for the allocator, for vsock-proxy units and for the agent's own, dnf for nitro-cli's packages."""

from __future__ import annotations

import re
import shlex
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.hypervisor import Hypervisor
from nitrokit.emulation.nitro.listeners import UnixListener
from nitrokit.emulation.nitro.units import ProgramUnit, Spawn, UnitError, parse_unit
from nitrokit.runtime.streams import Relay

ALLOCATOR = "nitro-enclaves-allocator"
_NITRO_PACKAGES = ("aws-nitro-enclaves-cli", "aws-nitro-enclaves-cli-devel")
_PROXY = "/usr/bin/vsock-proxy"
NOTIFY_FOLDER = "/run/nitrokit-hardware/units"
"""Where a program on the parent finds its unit's socket."""


class Services:
    """systemctl, journalctl and dnf of one parent. ``etc``: its /etc; ``routes``: where "host:port" leads in the emulated AWS; ``spawn``: runs a program on the parent;
    ``folder``: for its sockets and output.
    """

    def __init__(self, etc: Path, hypervisor: Hypervisor, routes: Mapping[str, tuple[str, int]], spawn: Spawn, folder: Path) -> None:
        self._etc = etc
        self._hypervisor = hypervisor
        self._routes = routes
        self._spawn = spawn
        self._folder = folder
        self._relay = Relay()
        self._proxies: dict[str, UnixListener] = {}
        self._programs: dict[str, ProgramUnit] = {}
        self._enabled: set[str] = set()
        self._allocated = False
        self._lock = threading.RLock()

    def systemctl(self, arguments: list[str]) -> dict[str, Any]:
        """Run a systemctl command line; {"exit", "stdout", "stderr"} as systemctl would."""
        words = [word for word in arguments if not word.startswith("-")]
        verb, units = (words[0], [word.removesuffix(".service") for word in words[1:]]) if words else ("", [])
        action = self._verbs().get(verb)
        if action is None:
            return {"exit": 1, "stdout": "", "stderr": f"Unknown command verb {verb!r}.\n"}
        try:
            return action(units, arguments)
        except (NitroError, UnitError) as error:
            return {"exit": 1, "stdout": "", "stderr": f"Job for {', '.join(units)} failed: {error}\n"}

    def _verbs(self) -> dict[str, Callable[[list[str], list[str]], dict[str, Any]]]:
        return {
            "daemon-reload": lambda units, options: _done(),
            "enable": self._enable,
            "disable": self._disable,
            "start": self._start,
            "restart": lambda units, options: self._stop(units) and self._start(units, options),
            "stop": lambda units, options: self._stop(units),
            "reload": self._reload,
            "is-active": lambda units, options: _asked(all(map(self._is_active, units)), "active"),
            "is-enabled": lambda units, options: _asked(all(unit in self._enabled for unit in units), "enabled"),
            "status": lambda units, options: _done("".join(f"{unit}: active\n" for unit in sorted(self._programs))),
        }

    def _enable(self, units: list[str], options: list[str]) -> dict[str, Any]:
        self._enabled |= set(units)
        return self._start(units, options) if "--now" in options else _done()

    def _disable(self, units: list[str], options: list[str]) -> dict[str, Any]:
        self._enabled -= set(units)
        return self._stop(units) if "--now" in options else _done()

    def _reload(self, units: list[str], options: list[str]) -> dict[str, Any]:
        for unit in units:
            if unit not in self._programs:
                raise UnitError(f"{unit}.service is not active, cannot reload.")
            self._programs[unit].reload()
        return _done()

    def _is_active(self, unit: str) -> bool:
        program = self._programs.get(unit)
        return program.active if program else unit in self._proxies or (unit == ALLOCATOR and self._allocated)

    def journalctl(self, arguments: list[str]) -> dict[str, Any]:
        """What units printed, one after the other; --lines and the like change nothing."""
        journals = sorted(self._folder.glob("*.journal"))
        return _done("".join(path.read_text(errors="replace") for path in journals))

    def dnf(self, arguments: list[str]) -> dict[str, Any]:
        """Installing nitro-cli's packages finds them there; others are not known."""
        packages = [word for word in arguments if not word.startswith("-")][1:]
        unknown = [package for package in packages if package not in _NITRO_PACKAGES]
        if unknown:
            return {"exit": 1, "stdout": "", "stderr": f"Error: Unable to find a match: {' '.join(unknown)}\n"}
        return _done("Package is already installed.\nComplete!\n")

    def _start(self, units: list[str], options: list[str]) -> dict[str, Any]:
        for unit in units:
            if unit == ALLOCATOR:
                values = parse_allocator((self._etc / "nitro_enclaves" / "allocator.yaml").read_text())
                self._hypervisor.allocate(cpu_count=values["cpu_count"], memory_mib=values["memory_mib"])
                self._allocated = True
            elif not self._is_active(unit):
                self._start_program(unit, wait="--no-block" not in options)
        return _done()

    def _start_program(self, unit: str, *, wait: bool) -> None:
        path = self._etc / "systemd" / "system" / f"{unit}.service"
        if not path.is_file():
            raise UnitError(f"Unit {unit}.service not found.")
        command = parse_unit(path.read_text()).get("ExecStart", [""])[-1]
        if command.startswith(_PROXY):
            self._proxies[unit] = self._proxy(shlex.split(command))
            return
        with self._lock:
            self._stop([unit])
            notify = self._folder / f"{unit}.notify"
            program = ProgramUnit(
                unit, path.read_text(), self._spawn, notify, f"{NOTIFY_FOLDER}/{notify.name}", self._folder / f"{unit}.journal"
            )
            self._programs[unit] = program
        for wanted in (word.removesuffix(".service") for word in program.words("Wants")):
            if (self._etc / "systemd" / "system" / f"{wanted}.service").is_file() and not self._is_active(wanted):
                self._start_program(wanted, wait=False)
        program.start(wait=wait)

    def _stop(self, units: list[str]) -> dict[str, Any]:
        for unit in units:
            parts = [name for name, one in list(self._programs.items()) if f"{unit}.service" in one.words("PartOf")]
            for name in (unit, *parts):
                if program := self._programs.pop(name, None):
                    program.stop()
                if proxy := self._proxies.pop(name, None):
                    proxy.close()
        return _done()

    def _proxy(self, command: list[str]) -> UnixListener:
        """A vsock-proxy unit: its command line, its allowlist, its destination."""
        port, host, remote_port, config = parse_proxy_command(command)
        allowed = parse_allowlist((self._etc / config.removeprefix("/etc/")).read_text())
        if (host, remote_port) not in allowed:
            raise NitroError("E00", f"vsock-proxy: {host}:{remote_port} is not in the allowlist {config}")
        route = self._routes.get(f"{host}:{remote_port}")
        if route is None:
            raise NitroError("E00", f"vsock-proxy: {host}:{remote_port} cannot be resolved: the emulated AWS does not have it")
        return UnixListener(
            self._hypervisor.vsock / "3" / str(port),
            lambda connection: threading.Thread(target=forward, args=(connection, route, self._relay), daemon=True).start(),
        )

    def close(self) -> None:
        for program in self._programs.values():
            program.kill()
        for proxy in self._proxies.values():
            proxy.close()


def _done(stdout: str = "") -> dict[str, Any]:
    return {"exit": 0, "stdout": stdout, "stderr": ""}


def _asked(yes: bool, word: str) -> dict[str, Any]:
    return {"exit": 0 if yes else 3, "stdout": f"{word if yes else 'not ' + word}\n", "stderr": ""}


def forward(inner: socket.socket, route: tuple[str, int], relay: Relay) -> None:
    """Join a connection from an enclave with a new one to ``route``; it ends where nobody answers there."""
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
