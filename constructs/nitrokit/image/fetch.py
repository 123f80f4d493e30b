"""Pinned files, by content: a cache under their SHA-256, filled from the mirrors that this machine's apt and pip are set up for."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.errors import FetchError
from nitrokit.image.files import scratch, sha256_of
from nitrokit.image.mirrors import apt_mirrors
from nitrokit.image.requirements import Requirement, read_requirements


def cache_dir(environment: Mapping[str, str]) -> Path:
    """NITROKIT_CACHE, else XDG's cache folder, else ~/.cache/nitrokit."""
    if path := environment.get("NITROKIT_CACHE"):
        return Path(path)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nitrokit"


def fetch_pool_file(
    path: str,
    sha256: str,
    *,
    cache: Path,
    mirrors: Callable[[], list[str]] = apt_mirrors,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """A file of a Debian pool by its path below the archive's root; an interrupted download goes on where it stopped. Raises FetchError, naming the file that no mirror has."""
    target = cache / "sha256" / sha256
    if target.is_file() and sha256_of(target) == sha256:
        return target
    from nitrokit.image.download import UNREACHABLE, download  # what is kept needs no network, nor its modules

    partial = cache / "partial" / sha256
    for folder in (target.parent, partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    refusals = []
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two builds at once: the second finds what the first has fetched
        if target.is_file() and sha256_of(target) == sha256:
            return target
        for mirror in mirrors():
            try:
                download(f"{mirror}/{path}", file, progress)
                if sha256_of(partial) != sha256:  # what was kept of an earlier try may have been another mirror's error page
                    file.truncate(0)
                    download(f"{mirror}/{path}", file, progress)
            except UNREACHABLE as error:
                refusals.append(f"{mirror}: {error}")
                continue
            if sha256_of(partial) == sha256:
                os.replace(partial, target)
                return target
            refusals.append(f"{mirror}: other content")
            file.truncate(0)
    raise FetchError(
        "gone",
        f"no mirror has the pinned file {path}",
        got="; ".join(refusals),
        expected=f"sha256 {sha256}",
        do="check the network; if the archive has replaced the package, run `nitrokit lock` and have the new lock reviewed",
    )


def fetch_wheels(requirements: Path, *, python: str, arch: str, cache: Path) -> list[Path]:
    """The wheels of a hashed requirements file, downloaded by pip, which checks every hash. Sorted by name. Raises LockError, FetchError."""
    wanted = read_requirements(requirements)
    text = "".join(f"{one}\n" for one in wanted)
    target = cache / "wheels" / hashlib.sha256(f"{text}{python} {arch}".encode()).hexdigest()
    if target.is_dir() and not _whole(target, wanted):
        shutil.rmtree(target)
    if not target.is_dir():
        with scratch(target.parent) as folder:
            (folder / requirements.name).write_text(text, encoding="utf-8")  # what was read here is what pip reads
            _pip_download(folder / requirements.name, folder / "all", python, arch, requirements)
            try:
                os.replace(folder / "all", target)
            except OSError:  # another process was faster: the content is the same
                if not target.is_dir():
                    raise
    return sorted(target.glob("*.whl"))


def _whole(folder: Path, wanted: Iterable[Requirement]) -> bool:
    """Whether a kept folder has each of the wheels and nothing else: a cache may be cleared in part."""
    found = {sha256_of(wheel) for wheel in folder.glob("*.whl")}
    return all(found & set(one.sha256s) for one in wanted) and found <= {sha256 for one in wanted for sha256 in one.sha256s}


def _pip_download(requirements: Path, folder: Path, python: str, arch: str, lock: Path) -> None:
    platforms = [word for platform in ARCHITECTURES[arch].wheels for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", python, *platforms, "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError(
            "wheels",
            f"pip could not fetch the wheels of {lock}",
            got=done.stderr.strip()[-800:],
            expected="every pinned wheel",
            do="check the network and the hashes",
        )
