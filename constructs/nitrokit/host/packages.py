"""nitro-cli and what it needs, from Amazon Linux's packages, in versions without the bugs that would bite here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Dict, List, Tuple

from nitrokit.host.commands import run
from nitrokit.host.config import AgentError, Config

_CLI, _DEVEL = "aws-nitro-enclaves-cli", "aws-nitro-enclaves-cli-devel"
# Older: vsock-proxy asks Google's DNS, which an isolated subnet does not reach (aws-nitro-enclaves-cli issue 623), and resolves once (issue 553).
_OLDEST = (1, 3, 1)
_OS_RELEASE = Path("/etc/os-release")
_UNSUPPORTED = "AWS's support of Amazon Linux 2 ended on 2026-06-30 (Amazon Linux 2 FAQs): take a machine image of Amazon Linux 2023"
_FOR_BUILDING = ("docker", _DEVEL)


def install(config: Config) -> Dict[str, str]:
    """Install what is missing for ``config``, and update a nitro-cli that is too old. Returns its version, and a warning where there is one. Raises AgentError."""
    packages = [_CLI] if shutil.which("nitro-cli") is None else []
    if config.docker_uri and (shutil.which("docker") is None or not _blobs().is_dir()):
        packages += _FOR_BUILDING
    if packages:
        _install(packages)
    if config.docker_uri:
        run(["systemctl", "enable", "--now", "docker"], "starting docker", "install")
    found = version()
    if found < _OLDEST:
        _install([_CLI])
        found = version()
    if found < _OLDEST:
        raise AgentError(
            "old-nitro-cli",
            "nitro-cli has known bugs: its vsock-proxy resolves names by servers that a private subnet does not reach",
            got=_dotted(found),
            expected=f"{_dotted(_OLDEST)} or newer",
            do="take a newer machine image, or a newer Amazon Linux release",
        )
    return {"nitro_cli": _dotted(found), **({"warning": _UNSUPPORTED} if _is_amazon_linux_2() else {})}


def version() -> Tuple[int, ...]:
    """nitro-cli's version. Raises AgentError."""
    text = run(["nitro-cli", "--version"], "asking nitro-cli for its version", "install", timeout=30)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise AgentError("install", "nitro-cli does not tell its version", got=text[:100], expected="e.g. Nitro CLI 1.4.2")
    return tuple(int(one) for one in found.groups())


def _install(packages: List[str]) -> None:
    """Amazon Linux 2 has nitro-cli among its extras, Amazon Linux 2023 among its packages (Nitro Enclaves User Guide "Installing the Nitro Enclaves CLI on Linux")."""
    if _is_amazon_linux_2():
        if _CLI in packages:
            run(["amazon-linux-extras", "install", "-y", _CLI], "installing nitro-cli", "install")
        others = [one for one in packages if one != _CLI]
        if others:
            run(["yum", "install", "-y", *others], "installing packages", "install")
        return
    # dnf updates, too, what is installed in an older version.
    run(["dnf", "install", "--assumeyes", *packages], "installing packages", "install")


def _is_amazon_linux_2() -> bool:
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return False
    return 'ID="amzn"' in lines and 'VERSION_ID="2"' in lines


def _blobs() -> Path:
    """What nitro-cli builds an EIF from (aws-nitro-enclaves-cli:src/common/mod.rs)."""
    return Path("/usr/share/nitro_enclaves/blobs")


def _dotted(version: Tuple[int, ...]) -> str:
    return ".".join(map(str, version))
