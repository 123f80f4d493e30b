"""``enclave.toml``: what an image is made of. Keys that are not known are refused, with the file and the line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nitrokit.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")
RESTARTS = ("never", "on-failure", "always")
_KEYS: dict[str, dict[str, type]] = {
    "enclave": {"name": str, "arch": str, "cpu_count": int, "memory_mib": int},
    "packages": {"suite": str, "include": list, "omit": list, "requirements": str, "exclude": list},
    "app": {"source": str, "command": list, "working_directory": str, "user": str, "environment": dict, "logs": bool, "restart": str},
    "egress": {"host": str, "port": int, "vsock_port": int},
}


class ManifestError(UsageError):
    """An enclave.toml that cannot be used; the message names the file and the line."""

    area = "manifest"


@dataclass(frozen=True)
class Packages:
    """Debian ``suite`` and packages to ``include`` with what they depend on, but for those to ``omit``; ``requirements``: the file of hashed wheels beside the manifest;
    ``exclude``: patterns of paths (fnmatch, without a leading slash) that stay out of the image.
    """

    suite: str
    include: tuple[str, ...]
    requirements: str
    omit: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class App:
    """``source`` is copied to ``working_directory``; ``command`` runs there as ``user`` with ``environment`` alone.

    ``logs``: whether the parent may read what the app prints (the parent is not trusted with data). ``restart``: when the app is started again after its end; else the enclave ends.
    """

    source: str
    command: tuple[str, ...]
    working_directory: str = "/app"
    user: str = "nobody"
    environment: Mapping[str, str] = field(default_factory=dict)
    logs: bool = False
    restart: str = "never"


@dataclass(frozen=True)
class Egress:
    """An allowed destination: ``host``:``port`` goes to the parent's vsock port ``vsock_port``."""

    host: str
    port: int
    vsock_port: int


@dataclass(frozen=True)
class Manifest:
    """One image. ``memory_mib`` None: computed from the EIF's size."""

    name: str
    arch: str
    cpu_count: int
    memory_mib: int | None
    packages: Packages
    app: App
    egress: tuple[Egress, ...]


def parse_manifest(text: str, *, path: str) -> Manifest:
    """Parse enclave.toml; ``path`` is for messages. Raises ManifestError."""
    try:
        value = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError("not-toml", f"{path} is not TOML", got=str(error)) from error
    where = _Locator(text, path)
    for name in value:
        if name not in _KEYS:
            raise ManifestError(
                "unknown-key",
                f"unknown key {name!r} at {where(name)}",
                got=name,
                expected=", ".join(_KEYS),
                do="remove it, or correct its spelling",
            )
    tables = {name: _table(value, name, where) for name in ("enclave", "packages", "app")}
    egress = value.get("egress", [])
    if not isinstance(egress, list) or not all(isinstance(one, dict) for one in egress):
        raise ManifestError("type", f"egress at {where('egress')} is not an array of tables", expected="[[egress]]")
    enclave = tables["enclave"]
    return Manifest(
        name=_required(enclave, "enclave", "name", where, _NAME),
        arch=_choice(enclave.get("arch", "x86_64"), ("x86_64",), where("arch")),
        cpu_count=_range(enclave.get("cpu_count", 2), 1, 512, "cpu_count", where),
        memory_mib=None if "memory_mib" not in enclave else _range(enclave["memory_mib"], 64, 1 << 24, "memory_mib", where),
        packages=_packages(tables["packages"], where),
        app=_app(tables["app"], where),
        egress=tuple(_egress(_checked(one, "egress", where), where) for one in egress),
    )


class _Locator:
    """Finds the line of a key: tomllib does not tell."""

    def __init__(self, text: str, path: str) -> None:
        self._lines = text.splitlines()
        self._path = path

    def __call__(self, key: str) -> str:
        pattern = re.compile(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*(\.|=|\]|$)")
        number = next((index for index, line in enumerate(self._lines, 1) if pattern.match(line)), 1)
        return f"{self._path}:{number}"


def _table(value: Mapping[str, Any], name: str, where: _Locator) -> dict[str, Any]:
    table = value.get(name)
    if table is None:
        raise ManifestError("missing", f"no [{name}] in {where(name)}", expected=f"a table [{name}]")
    if not isinstance(table, dict):
        raise ManifestError("type", f"{name} at {where(name)} is not a table", expected=f"[{name}]")
    return _checked(table, name, where)


def _checked(table: dict[str, Any], name: str, where: _Locator) -> dict[str, Any]:
    known = _KEYS[name]
    for key, value in table.items():
        if key not in known:
            raise ManifestError(
                "unknown-key",
                f"unknown key {key!r} in [{name}] at {where(key)}",
                got=key,
                expected=", ".join(known),
                do="remove it, or correct its spelling",
            )
        if not isinstance(value, known[key]) or isinstance(value, bool) != (known[key] is bool):
            raise ManifestError("type", f"{key} at {where(key)} has the wrong type", got=type(value).__name__, expected=known[key].__name__)
    return table


def _required(table: Mapping[str, Any], name: str, key: str, where: _Locator, pattern: re.Pattern[str] | None = None) -> str:
    if key not in table:
        raise ManifestError("missing", f"no {key} in [{name}] at {where(name)}")
    value: str = table[key]
    if pattern is not None and not pattern.fullmatch(value):
        raise ManifestError("value", f"{key} at {where(key)} is not allowed", got=value, expected=pattern.pattern)
    return value


def _choice(value: str, allowed: tuple[str, ...], place: str) -> str:
    if value not in allowed:
        raise ManifestError("value", f"value at {place} is not allowed", got=value, expected=" or ".join(allowed))
    return value


def _range(value: int, least: int, most: int, key: str, where: _Locator) -> int:
    if not least <= value <= most:
        raise ManifestError("range", f"{key} at {where(key)} is out of range", got=value, expected=f"{least} to {most}")
    return value


def _strings(value: list[Any], key: str, where: _Locator) -> tuple[str, ...]:
    if not value or not all(isinstance(item, str) and item for item in value):
        raise ManifestError("type", f"{key} at {where(key)} is not a list of strings", got=repr(value)[:80], expected="at least one string")
    return tuple(value)


def _relative(value: str, key: str, where: _Locator) -> str:
    if not value or value.startswith("/") or ".." in value.split("/"):
        raise ManifestError("path", f"{key} at {where(key)} leaves the image folder", got=value, expected="a relative path below it")
    return value


def _packages(table: dict[str, Any], where: _Locator) -> Packages:
    include = _strings(table.get("include", []), "include", where)
    requirements = _relative(_required(table, "packages", "requirements", where), "requirements", where)
    omit, exclude = (_strings(table[key], key, where) if table.get(key) else () for key in ("omit", "exclude"))
    return Packages(_required(table, "packages", "suite", where, _NAME), include, requirements, omit, exclude)


def _app(table: dict[str, Any], where: _Locator) -> App:
    command = _strings(table.get("command", []), "command", where)
    if not command[0].startswith("/"):
        raise ManifestError(
            "command", f"command at {where('command')} is not an absolute path", got=command[0], expected="e.g. /usr/bin/python3"
        )
    directory = table.get("working_directory", "/app")
    if not directory.startswith("/") or ".." in directory.split("/"):
        raise ManifestError("path", f"working_directory at {where('working_directory')} is not absolute", got=directory)
    environment = table.get("environment", {})
    if not all(isinstance(value, str) and "\0" not in value for value in environment.values()):
        raise ManifestError("type", f"environment at {where('environment')} has a value that is not a string")
    source = _relative(_required(table, "app", "source", where), "source", where)
    restart = _choice(table.get("restart", "never"), RESTARTS, where("restart"))
    return App(source, command, directory, table.get("user", "nobody"), environment, table.get("logs", False), restart)


def _egress(table: dict[str, Any], where: _Locator) -> Egress:
    host = _required(table, "egress", "host", where, _HOST)
    for key in ("port", "vsock_port"):
        if key not in table:
            raise ManifestError("missing", f"no {key} in [[egress]] of {host} at {where('egress')}")
    return Egress(host, _range(table["port"], 1, 65535, "port", where), _range(table["vsock_port"], 1024, 65535, "vsock_port", where))
