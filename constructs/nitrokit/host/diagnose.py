"""One archive with what helps to find a fault on a parent, and without secrets."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from nitrokit.host.commands import run
from nitrokit.host.config import BUCKET, FOLDER, STATE, AgentError
from nitrokit.host.files import remove, replace
from nitrokit.host.status import status

_TAIL = 256 << 10
_S3_FOLDER = re.compile(rf"s3://{BUCKET}(/[^\s]*)?")
_COMMAND_TIMEOUT = 20
_FILES = (
    (FOLDER, "*.json"), (FOLDER, "*.yaml"), (STATE, "*/*.json"), (Path("/etc/nitro_enclaves"), "*.yaml"), (Path("/etc/systemd/system"), "nitrokit-*.service"),
    (Path("/var/log/nitro_enclaves"), "*.log"), (Path("/sys/module/nitro_enclaves/parameters"), "*"), (Path("/sys/kernel/mm/hugepages"), "*/nr_hugepages"),
    (Path("/sys/kernel/mm/hugepages"), "*/free_hugepages"), (Path("/etc"), "os-release"), (Path("/proc"), "meminfo"), (Path("/proc"), "cmdline"),
)  # fmt: skip
# Not those that follow an app's log: what an app prints is its owner's, and may be anything.
_UNITS = ("nitrokit-enclave-*", "nitrokit-vsock-proxy-*", "nitro-enclaves-allocator.service")
_COMMANDS: Dict[str, List[str]] = {
    "nitro-cli-version": ["nitro-cli", "--version"],
    "describe-enclaves": ["nitro-cli", "describe-enclaves"],
    "journal": ["journalctl", "--no-pager", "--lines", "2000", *(word for unit in _UNITS for word in ("--unit", unit))],
    "units": ["systemctl", "--no-pager", "--lines", "0", "status", *_UNITS],
    "packages": ["rpm", "--query", "aws-nitro-enclaves-cli", "aws-nitro-enclaves-cli-devel", "amazon-ssm-agent", "kernel"],
    "disk": ["df", "--human-readable"],
    "cpus": ["lscpu"],
    "kernel": ["uname", "--all"],
}
_SECRETS = (
    # Access keys, session tokens, passwords, signed addresses (IAM User Guide "IAM identifiers"; Signature Version 4 query parameters); quotes may be escaped, as in JSON inside JSON.
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,20}\b"),
    re.compile(
        r"(?i)((?:secret|token|password|passwd|credential|signature|authorization|private.?key)[\w.-]*[\\\"']*\s*[:=]\s*[\\\"']*(?:(?:bearer|basic)\s+)?)[^\s\\\"',;&]+"
    ),
    re.compile(r"(?i)(--[\w-]*(?:secret|token|password)[\w-]*\s+)\S+"),
    re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)"),
    # Tokens known by their beginning: session tokens, JSON Web Tokens.
    re.compile(r"\b(?:IQoJ|FwoG|FQoG|eyJ)[\w+/=.-]{8,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)


def diagnose(upload: str) -> Dict[str, Any]:
    """Write the archive, and copy it to the S3 folder ``upload`` where one is given. Raises AgentError."""
    if upload and not _S3_FOLDER.fullmatch(upload):
        raise AgentError("upload", "not an S3 folder", got=upload, expected="s3://bucket/prefix", do="correct it, or leave it out")
    folder = STATE / "diagnostics"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        remove(old)  # one at a time: a small disk is often the fault
    path = folder / time.strftime("nitrokit-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    part = path.with_suffix(".part")
    try:
        with tarfile.open(part, "w:gz") as archive:
            for name, text in _contents():
                _add(archive, name, scrub(text))
    except OSError as error:
        raise AgentError("diagnose", "the archive could not be written", got=str(error), do="free some space on the disk") from error
    replace(part, path)
    if upload:
        target = f"{upload.rstrip('/')}/{path.name}"
        run(["aws", "s3", "cp", "--only-show-errors", str(path), target], "uploading the archive", "diagnose")
        return {"archive": str(path), "uploaded": target}
    return {"archive": str(path)}


def scrub(text: str) -> str:
    """Without what looks like a secret: rather too much than too little."""
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: (found.group(1) if found.re.groups else "") + "[removed]", text)
    return text


def _contents() -> Iterator[Tuple[str, str]]:
    try:
        yield "status.json", json.dumps(status(), indent=1)
    except AgentError as error:
        yield "status.json", str(error)
    for folder, pattern in _FILES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                yield f"files{path}", _tail(path)
    for name, command in _COMMANDS.items():
        yield f"commands/{name}.txt", _output(command)


def _tail(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        return str(error)
    return data[-_TAIL:].decode(errors="replace")


def _output(command: List[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_COMMAND_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout[-_TAIL:].decode(errors="replace")


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name.replace("//", "/"))
    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(data))
