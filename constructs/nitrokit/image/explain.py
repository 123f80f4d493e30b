"""Why measurements differ: by section, not by two hashes."""

from __future__ import annotations

from nitrokit.image.build import BuiltImage
from nitrokit.image.lock import ImageLock

_PCRS = {"kernel": "PCR0, PCR1", "cmdline": "PCR0, PCR1", "ramdisk0": "PCR0, PCR1", "ramdisk1": "PCR0, PCR2"}
_WHAT = {
    "kernel": "the kernel",
    "cmdline": "the kernel command line",
    "ramdisk0": "ramdisk 0 (init, nitrokit's runtime)",
    "ramdisk1": "ramdisk 1 (packages, wheels, the app)",
}


def explain(lock: ImageLock, built: BuiltImage) -> list[str]:
    """One sentence for each section that differs from the lock; empty when all PCRs agree."""
    differing = lock.measurements.differences(built.measurements)
    if not differing:
        return []
    sections = [name for name in _WHAT if lock.sections.get(name) != built.sections[name]]
    if not sections:
        return [
            f"{difference} although every section agrees: measurements.json and image.lock.json are not of one build"
            for difference in differing
        ]
    return [
        f"{_WHAT[name]} differs (locked {lock.sections.get(name, 'nothing')[:12]}…, built {built.sections[name][:12]}…): {_PCRS[name]}"
        for name in sections
    ]
