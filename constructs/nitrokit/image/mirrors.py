"""Where this machine gets Debian packages from: its own apt configuration says so, and only that."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nitrokit.image.errors import FetchError

# Any suite of Debian's will do: the archive of one holds the packages of all. Other vendors' archives have suites or components of their own names.
_SUITES = {"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid", "bullseye", "bookworm", "trixie", "forky", "duke"}
_ONE_LINE = re.compile(r"^\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s*([^#\n]*)", re.MULTILINE)
_PROXY = ("http", "https")


@dataclass(frozen=True)
class _Source:
    uri: str
    suite: str
    components: list[str]


def apt_mirrors(etc: Path = Path("/etc/apt")) -> list[str]:
    """The Debian archives of this machine's apt configuration, security archives last; no `apt-get update` is needed. Raises FetchError."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    sources = [source for path in files if path.is_file() for source in _sources(path)]
    debian = [source for source in sources if re.split("[-/]", source.suite)[0] in _SUITES and "main" in source.components]
    found = {uri.rstrip("/") for source in debian for uri in _expand(source.uri)}
    # A machine without the security archive still has its mirror's, beside the main one.
    found |= {f"{uri}-security" for uri in found if uri.endswith("/debian")}
    mirrors = sorted((uri for uri in found if re.match("(https?|file):", uri)), key=lambda uri: ("security" in uri, uri))
    if not mirrors:
        raise FetchError(
            "no-mirror",
            "no Debian archive is configured on this machine",
            got=", ".join(sorted({source.uri for source in sources})) or "no sources at all",
            expected=f"a Debian archive in {etc}/sources.list or {etc}/sources.list.d",
            do="run it on a Debian machine",
        )
    return mirrors


def _sources(path: Path) -> Iterator[_Source]:
    """Entries of either of apt's two formats (sources.list(5))."""
    text = path.read_text(errors="replace")
    if path.suffix != ".sources":
        for uri, suite, components in _ONE_LINE.findall(text):
            yield _Source(uri, suite, components.split())
        return
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)):
        fields = {name.lower(): value.split() for name, value in re.findall(r"^([\w-]+):((?:.*\n?)(?:[ \t]+.*\n?)*)", stanza, re.MULTILINE)}
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"])[:1] != ["no"]:
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield _Source(uri, suite, fields.get("components", []))


def _expand(uri: str) -> list[str]:
    """The addresses in a list of mirrors (apt-transport-mirror(1)), which cloud images use; any other URI as it is."""
    if not uri.startswith("mirror+file:"):
        return [uri]
    path = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
    try:
        return [line.split()[0] for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    except OSError:
        return []


def apt_proxies() -> dict[str, str]:
    """The proxies that apt is told to use, by scheme; empty where it is told of none, or there is no apt."""
    proxies = {}
    for scheme in _PROXY:
        try:
            shown = subprocess.run(
                ["apt-config", "shell", "X", f"Acquire::{scheme}::Proxy"], capture_output=True, text=True, check=False
            ).stdout
        except OSError:
            return {}
        value = shown.strip().removeprefix("X=").strip("'")
        if value and value.upper() != "DIRECT":
            proxies[scheme] = value
    return proxies
