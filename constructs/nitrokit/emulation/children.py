"""Child processes that never outlive us, not even a kill -9."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# The kernel's "parent death signal" means the death of the thread that forked: children are started by one that lives as long as we do.
_LAUNCHER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nitrokit-launcher")
_DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which dies when we do. ``options`` as of subprocess.Popen."""

    def launch() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*_DIE_WITH_US, *command], start_new_session=True, **options)

    return _LAUNCHER.submit(launch).result()
