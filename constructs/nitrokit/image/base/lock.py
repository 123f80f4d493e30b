"""``python -m nitrokit.image.base.lock``: resolve ramdisk 0 anew, for both architectures. For nitrokit's own releases: it moves PCR0 and PCR1 of every image."""

from __future__ import annotations

from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.base import FOLDER, base_packages, lock_path, requirements_path
from nitrokit.image.resolve import lock_packages

if __name__ == "__main__":
    for name in ARCHITECTURES:
        lock_packages(
            base_packages(), name, lock=lock_path(name), requirements=(FOLDER / "requirements.in", requirements_path(name)), progress=print
        )
