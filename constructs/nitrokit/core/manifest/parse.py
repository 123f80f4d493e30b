"""From the text of enclave.toml to a Manifest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nitrokit.core.manifest.fields import Locator, ManifestError, Table, unknown_key
from nitrokit.core.manifest.model import (
    ARCHITECTURES,
    COMPRESSIONS,
    EGRESS_PORTS,
    EGRESS_VSOCK_PORTS,
    HOST,
    HOST_IN_WORDS,
    INITS,
    RESTARTS,
    App,
    Dockerfile,
    Egress,
    EifFile,
    Ingress,
    Manifest,
    Oci,
    Packages,
    Rootfs,
    Signing,
    Source,
)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WRITTEN = re.compile(r".*(?<!\.in)", re.DOTALL)
_CONTROL_PORT = 5001
_SOURCES: dict[str, dict[str, type]] = {
    "packages": {"suite": str, "include": list, "omit": list, "requirements": str, "exclude": list},
    "dockerfile": {"path": str, "context": str, "target": str, "arguments": dict, "exclude": list},
    "oci": {"path": str, "reference": str, "digest": str, "exclude": list},
    "rootfs": {"path": str, "sha256": str, "exclude": list},
    "eif": {"path": str},
}
KEYS: dict[str, dict[str, type]] = {
    "enclave": {"name": str, "arch": str, "cpu_count": int, "memory_mib": int, "compression": str, "init": str},
    **_SOURCES,
    "app": {
        "source": str, "command": list, "working_directory": str, "user": str, "environment": dict, "logs": bool, "restart": str, "ready_port": int,
    },
    "egress": {"host": str, "port": int, "vsock_port": int},
    "ingress": {"port": int, "vsock_port": int},
    "signing": {"certificate": str, "key": str, "kms_key": str},
}  # fmt: skip


def parse_manifest(text: str, *, path: str) -> Manifest:
    """Parse enclave.toml; ``path`` is for messages. Raises ManifestError."""
    try:
        value = tomllib.loads(text)
        if any(abs(one) >> 63 for one in _integers(value)):
            raise ValueError('an integer of more than 64 bits (TOML 1.0.0, "Integer")')
    except (ValueError, RecursionError) as error:  # Python itself refuses decimals of more than 4,300 digits
        raise ManifestError("not-toml", f"{path} is not TOML", got=str(error), do="correct it there: TOML in UTF-8") from error
    where = Locator(text, path)
    for name in value:
        if name not in KEYS:
            raise unknown_key(name, "", KEYS, where)
    enclave = _table(value, "enclave", where)
    source = _source(value, where)
    return Manifest(
        name=enclave.text("name", _NAME),
        arch=enclave.choice("arch", ARCHITECTURES),
        cpu_count=enclave.number("cpu_count", 1, 512) if "cpu_count" in enclave else 2,
        memory_mib=enclave.number("memory_mib", 64, 1 << 24) if "memory_mib" in enclave else None,
        source=source,
        app=_app(value, source, where),
        egress=_all_egress(_tables(value, "egress", where), where),
        ingress=_all_ingress(_tables(value, "ingress", where), where),
        compression=enclave.choice("compression", COMPRESSIONS),
        init=_init(enclave, value, source, where),
        signing=_signing(_table(value, "signing", where), where) if "signing" in value else None,
    )


def parse_packages(text: str, *, path: str) -> Packages:
    """A file with a table [packages] alone. Raises ManifestError, tomllib.TOMLDecodeError."""
    where = Locator(text, path)
    return _packages(_table(tomllib.loads(text), "packages", where))


def _integers(value: object) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _integers(one)


def _table(value: Mapping[str, Any], name: str, where: Locator) -> Table:
    if name not in value:
        raise ManifestError("missing", f"no [{name}] in {where(name)}", expected=f"a table [{name}]")
    return Table(name, value[name], KEYS[name], where)


def _tables(value: Mapping[str, Any], name: str, where: Locator) -> list[Table]:
    items = value.get(name, [])
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise ManifestError("type", f"{name} at {where(name)} is not an array of tables", expected=f"[[{name}]]")
    return [Table(name, one, KEYS[name], where) for one in items]


def _source(value: Mapping[str, Any], where: Locator) -> Source:
    named = [name for name in _SOURCES if name in value]
    if len(named) != 1:
        raise ManifestError(
            "source",
            f"an image has one source, at {where(named[-1] if named else 'enclave')}",
            got=", ".join(f"[{name}]" for name in named) or "none",
            expected="one of " + ", ".join(f"[{name}]" for name in _SOURCES),
        )
    return _READERS[named[0]](_table(value, named[0], where))


def _packages(table: Table) -> Packages:
    include = table.strings("include")
    if include is None:
        raise ManifestError("missing", "no include in [packages]", expected="at least one Debian package")
    requirements = table.relative("requirements") if "requirements" in table else None
    return Packages(table.text("suite", _NAME), include, requirements, table.strings("omit") or (), table.strings("exclude") or ())


def _image_packages(table: Table) -> Packages:
    """`nitrokit lock` writes ``requirements``, from the names in the .in beside it."""
    if "requirements" in table:
        table.text(
            "requirements", _WRITTEN, "the file that `nitrokit lock` writes, e.g. requirements.txt, from the names in requirements.in"
        )
    return _packages(table)


def _dockerfile(table: Table) -> Source:
    path, context = table.relative("path", "Dockerfile"), table.relative("context", ".")
    return Dockerfile(path, context, table.optional("target"), table.mapping("arguments"), table.strings("exclude") or ())


def _oci(table: Table) -> Source:
    return Oci(table.relative("path"), table.optional("reference"), table.optional("digest", _DIGEST), table.strings("exclude") or ())


def _rootfs(table: Table) -> Source:
    return Rootfs(table.relative("path"), table.optional("sha256", _SHA256), table.strings("exclude") or ())


def _eif(table: Table) -> Source:
    return EifFile(table.relative("path"))


_READERS: dict[str, Callable[[Table], Source]] = {
    "packages": _image_packages,
    "dockerfile": _dockerfile,
    "oci": _oci,
    "rootfs": _rootfs,
    "eif": _eif,
}


def _app(value: Mapping[str, Any], source: Source, where: Locator) -> App:
    """[app] is demanded where nothing else says what to run. A packages image has its own defaults; an image of Docker's says its own."""
    if "app" not in value and not isinstance(source, Packages):
        return App()
    table = _table(value, "app", where)
    command = table.strings("command")
    if isinstance(source, Packages) and (command is None or "source" not in table):
        raise ManifestError("missing", f"no {'command' if command is None else 'source'} in [app] at {where('app')}")
    if command is not None and not command[0].startswith("/"):
        raise ManifestError(
            "command", f"command at {where('command')} is not an absolute path", got=command[0], expected="e.g. /usr/bin/python3"
        )
    plain = isinstance(source, Packages)
    return App(
        source=table.relative("source") if "source" in table else None,
        command=command,
        working_directory=table.absolute("working_directory") or ("/app" if plain else None),
        user=table.optional("user") or ("nobody" if plain else None),
        environment=table.mapping("environment"),
        logs=table.boolean("logs"),
        restart=table.choice("restart", RESTARTS),
        ready_port=table.number("ready_port", 1, 65535) if "ready_port" in table else None,
    )


_NOT_AWS = ("working_directory", "user", "logs", "restart", "ready_port")


def _init(enclave: Table, value: Mapping[str, Any], source: Source, where: Locator) -> str:
    """AWS's init runs a command as root in / and no more: what it cannot do is refused, not forgotten."""
    init = enclave.choice("init", INITS)
    if init == "aws":
        unheeded = [f"[[{name}]]" for name in ("egress", "ingress") if name in value]
        unheeded += [f"{name} in [app]" for name in _NOT_AWS if name in value.get("app", {})]
        unheeded += ["[packages]"] if isinstance(source, Packages) else []
        if unheeded:
            raise ManifestError(
                "init", f"init = \"aws\" at {where('init')} goes without what only nitrokit's init does",
                got=", ".join(unheeded), expected="[dockerfile], [oci] or [rootfs], and a command", do='remove it, or init = "aws"',
            )  # fmt: skip
    return init


def _all_egress(tables: list[Table], where: Locator) -> tuple[Egress, ...]:
    found = tuple(
        Egress(
            table.text("host", HOST, HOST_IN_WORDS), table.number("port", *EGRESS_PORTS), table.number("vsock_port", *EGRESS_VSOCK_PORTS)
        )
        for table in tables
    )
    ways = [(one.host, one.port) for one in found]
    for host, port in ways:
        if ways.count((host, port)) > 1:
            raise ManifestError(
                "value", f"[[egress]] at {where('egress')} names {host}:{port} twice", expected="one vsock_port for each destination"
            )
    return found


def _all_ingress(tables: list[Table], where: Locator) -> tuple[Ingress, ...]:
    found = tuple(Ingress(table.number("port", 1, 65535), table.number("vsock_port", 1024, (1 << 32) - 2)) for table in tables)
    ports = [one.vsock_port for one in found]
    for port in ports:
        if port == _CONTROL_PORT or ports.count(port) > 1:
            raise ManifestError(
                "value",
                f"vsock_port {port} of [[ingress]] at {where('ingress')} is taken",
                expected=f"a port of its own; {_CONTROL_PORT} is the control server's",
            )
    return found


def _signing(table: Table, where: Locator) -> Signing:
    key, kms_key = table.relative("key") if "key" in table else None, table.optional("kms_key")
    if (key is None) == (kms_key is None):
        raise ManifestError(
            "signing",
            f"[signing] at {where('signing')} names one key",
            got="both" if key else "none",
            expected="key (a file) or kms_key (an ARN)",
        )
    return Signing(table.relative("certificate"), key, kms_key)
