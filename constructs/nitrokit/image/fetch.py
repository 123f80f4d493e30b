"""Pinned files, by content: a cache under their SHA-256, filled from the mirrors that this machine's apt and pip are set up for."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from nitrokit.image.errors import FetchError
from nitrokit.image.files import write_atomically

_TIMEOUT = 60
_PLATFORMS = {"x86_64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")}


def cache_dir(environment: Mapping[str, str]) -> Path:
    """NITROKIT_CACHE, else XDG's cache folder, else ~/.cache/nitrokit."""
    if path := environment.get("NITROKIT_CACHE"):
        return Path(path)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nitrokit"


def apt_mirrors(etc: Path = Path("/etc/apt")) -> list[str]:
    """The Debian archives of this machine's apt configuration, security archives last; no `apt-get update` is needed. Raises FetchError."""
    texts = [
        path.read_text(errors="replace") for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))] if path.is_file()
    ]
    found: set[str] = set()
    for text in texts:
        found |= set(re.findall(r"^\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)", text, re.MULTILINE))
        found |= {uri for line in re.findall(r"^URIs:\s*(.+)$", text, re.MULTILINE) for uri in line.split()}
    mirrors = sorted({uri.rstrip("/") for uri in found if "debian" in uri}, key=lambda uri: ("security" in uri, uri))
    if not mirrors:
        raise FetchError(
            "no-mirror",
            "no Debian archive is configured on this machine",
            expected=f"a Debian archive in {etc}",
            do="run it on a Debian machine",
        )
    return mirrors


def fetch_pool_file(path: str, sha256: str, *, cache: Path, mirrors: Callable[[], list[str]] = apt_mirrors) -> Path:
    """A file of a Debian pool by its path below the archive's root. Raises FetchError, naming the file that no mirror has."""
    target = cache / "sha256" / sha256
    if target.is_file():
        return target
    refusals = []
    for mirror in mirrors():
        try:
            with urllib.request.urlopen(f"{mirror}/{path}", timeout=_TIMEOUT) as answer:
                data: bytes = answer.read()
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            refusals.append(str(error))
            continue
        if hashlib.sha256(data).hexdigest() != sha256:
            refusals.append("other content")
            continue
        write_atomically(target, [data])
        return target
    raise FetchError(
        "gone",
        f"no mirror has the pinned file {path}",
        got="; ".join(sorted(set(refusals))),
        expected=f"sha256 {sha256}",
        do="check the network; if the archive has replaced the package, run `nitrokit lock` and have the new lock reviewed",
    )


def fetch_wheels(requirements: Path, *, python: str, arch: str, cache: Path) -> list[Path]:
    """The wheels of a hashed requirements file, downloaded by pip, which checks every hash. Sorted by name. Raises FetchError."""
    key = hashlib.sha256(requirements.read_bytes() + python.encode() + arch.encode()).hexdigest()
    target = cache / "wheels" / key
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels-") as folder:
            _pip_download(requirements, Path(folder) / "all", python, arch)
            try:
                os.replace(Path(folder) / "all", target)
            except OSError:  # another process was faster: the content is the same
                if not target.is_dir():
                    raise
    return sorted(target.glob("*.whl"))


def _pip_download(requirements: Path, folder: Path, python: str, arch: str) -> None:
    platforms = [word for platform in _PLATFORMS[arch] for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", python, *platforms, "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError(
            "wheels",
            f"pip could not fetch the wheels of {requirements}",
            got=done.stderr.strip()[-800:],
            expected="every pinned wheel",
            do="check the network and the hashes",
        )
