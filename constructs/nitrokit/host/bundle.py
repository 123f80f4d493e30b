"""The agent as one file: a zip that Python runs, the same bytes for the same sources."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import nitrokit

MODULES = (
    "__init__.py", "_version.py", "errors.py", "core/__init__.py", "core/hugepages.py", "core/nonces.py", "host/__init__.py", "host/agent.py", "host/cloudwatch.py",
    "host/codes.py", "host/commands.py", "host/config.py", "host/diagnose.py", "host/docker.py", "host/enclave.py", "host/files.py", "host/health.py", "host/images.py",
    "host/imds.py", "host/launch.py", "host/locking.py", "host/logs.py", "host/notify.py", "host/outcome.py", "host/packages.py", "host/place.py", "host/pool.py", "host/proxies.py",
    "host/publish.py", "host/requests.py", "host/rollout.py", "host/signals.py", "host/status.py", "host/supervise.py", "host/units.py",
)  # fmt: skip
"""The agent, whole: an edit of anything else never changes its bytes. A test compares it with what the agent imports."""

_MAIN = "import sys\nfrom nitrokit.host.agent import main\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build_agent() -> bytes:
    """The zipapp's bytes."""
    package = Path(nitrokit.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("__main__.py"), _MAIN)
        for name in MODULES:
            archive.writestr(_entry(f"nitrokit/{name}"), (package / name).read_bytes())
    return buffer.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    return entry
