"""What an image should not be, told with the reason and the way out. What certainly keeps it from starting is an error elsewhere (``programs``); these are findings."""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nitrokit.core.boot import Process
from nitrokit.image.cpio import Node
from nitrokit.image.unpack import Tree

_RATIO = 4  # nitro-cli demands that much memory (aws-nitro-enclaves-cli:src/enclave_proc/resource_manager.rs, E26)
_LARGE = 512 << 20
_SHELLS = {"sh", "bash", "dash", "ash", "zsh", "busybox"}
_MANAGERS = {"apt", "apt-get", "dpkg", "apk", "yum", "dnf", "microdnf", "rpm", "pip", "pip3", "npm"}
_BINS = {"bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"}
_SECRET_NAMES = re.compile(
    r"(^|/)(\.aws/credentials|\.netrc|\.npmrc|\.pypirc|\.pgpass|\.docker/config\.json|id_(rsa|dsa|ecdsa|ed25519)|\.env)$"
)
_SECRETS = re.compile(
    rb"-----BEGIN (?:RSA |EC |DSA |OPENSSH |ENCRYPTED )?PRIVATE KEY-----|(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|aws_secret_access_key\s*=\s*\S{20}"
)
_SECRET_WORDS = (b"PRIVATE KEY-----", b"AKIA", b"ASIA", b"aws_secret_access_key")
"""Each match holds one: looking for words is thirty times as fast."""
_LEFT_BEHIND = re.compile(r"(^|.*/)(\.git|\.hg|\.svn|\.idea|\.vscode|\.DS_Store|[^/]+~|\.[^/]+\.sw[a-p])(?=/|$)")
_VARIABLES = re.compile(r"(PASSWORD|SECRET|TOKEN|PRIVATE_KEY|ACCESS_KEY)", re.IGNORECASE)
_LOOKED_INTO = 256 << 10


@dataclass(frozen=True)
class Finding:
    """``id`` is stable; ``where``: what it is about."""

    id: str
    where: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.id}: {self.where}: {self.reason}; {self.fix}"


def lint(tree: Tree, process: Process, original_command: str | None, notes: Iterable[str]) -> list[Finding]:
    """Everything but the size, which is known when the image is built. Sorted by id."""
    findings = [
        *_process(process, original_command),
        *_tools(tree, process),
        *_credentials(tree, process.environment),
        *_left_behind(tree),
        *(Finding("source", "enclave.toml", note, "see docs/enclave_toml.md") for note in notes),
    ]
    return sorted(findings, key=lambda one: (one.id, one.where))


def lint_size(eif_size: int) -> list[Finding]:
    """An enclave costs memory four times its EIF."""
    if eif_size < _LARGE:
        return []
    mib = -(-eif_size >> 20)
    reason = f"nitro-cli demands four times the EIF: {mib * _RATIO:,} MiB of memory for every enclave of it"
    return [
        Finding(
            "size",
            f"{mib:,} MiB",
            reason,
            "exclude what the app does not need, or compress ramdisk 1 (compression in [enclave])",
        )
    ]


def _process(process: Process, original: str | None) -> Iterator[Finding]:
    if original is not None and not original.startswith("/"):
        reason = f"a relative command; it was looked up here and is {process.command[0]} in the measured image"
        yield Finding("relative-command", original, reason, "name the absolute path")
    if process.uid == 0:
        yield Finding(
            "root",
            process.command[0],
            "the app runs as root, which may change all of the enclave",
            "name a user in [app], or USER in the Dockerfile; nitrokit's init heeds it",
        )


def _tools(tree: Tree, process: Process) -> Iterator[Finding]:
    for path, node in tree.items():
        folder, name = posixpath.split(path)
        if folder not in _BINS or stat.S_ISDIR(node.mode) or process.command[0] == f"/{path}":
            continue
        if name in _SHELLS:
            yield Finding("shell", path, "whoever gets to run code finds a shell", "start from a base without, or exclude it")
        elif name in _MANAGERS:
            yield Finding("package-manager", path, "an enclave installs nothing: what is in it is what was measured", "exclude it")


def _left_behind(tree: Tree) -> Iterator[Finding]:
    reason = "left behind by an editor or version control: another checkout lacks it, and measures otherwise"
    for where in sorted({found[0] for path in tree if (found := _LEFT_BEHIND.match(path))}):
        yield Finding("left-behind", where, reason, "remove it from the image folder")


def _credentials(tree: Tree, environment: Mapping[str, str]) -> Iterator[Finding]:
    reason, fix = "looks like a secret; anyone who has the EIF can read it", "take it out; let the app get it from KMS by attestation"
    for path, node in tree.items():
        if stat.S_ISREG(node.mode) and (_SECRET_NAMES.search(path) or _holds_secret(path, node)):
            yield Finding("credentials", path, reason, fix)
    for name, value in environment.items():
        if value and _VARIABLES.search(name):
            yield Finding("credentials", f"environment variable {name}", reason, fix)


def _holds_secret(path: str, node: Node) -> bool:
    """Small files alone; compiled code and archives are no place where people forget keys."""
    if node.size > _LOOKED_INTO or path.endswith((".pyc", ".so", ".gz", ".whl")):
        return False
    data = node.data
    return b"\0" not in data[:1024] and any(word in data for word in _SECRET_WORDS) and _SECRETS.search(data) is not None
