"""Writes this version's line of the table in docs/pcr1.md from the hello image's lock; lines of other versions stay. ``--check`` compares instead."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("pcr1.md")
HELLO = ROOT / "enclave_images" / "hello"
_ROW = re.compile(r"^\| \d", re.MULTILINE)


def row() -> str:
    """Version, architecture, kernel, PCR1."""
    version = re.findall(r'__version__ = "(.+)"', (ROOT / "constructs/nitrokit/_version.py").read_text())[0]
    kernel = json.loads((HELLO / "image.lock.json").read_text())["sections"]["kernel"]
    pcr1 = json.loads((HELLO / "measurements.json").read_text())["Measurements"]["PCR1"]
    return f"| {version} | x86_64 | `{kernel}` | `{pcr1}` |"


def render(page: str) -> str:
    """The page with this version's line."""
    start = row().rsplit("| `", 2)[0]
    lines = [line for line in page.splitlines() if not line.startswith(start)]
    last = max(number for number, line in enumerate(lines) if line.startswith("|---") or _ROW.match(line))
    return "\n".join([*lines[: last + 1], row(), *lines[last + 1 :]]) + "\n"


def main() -> int:
    text = PAGE.read_text()
    if "--check" in sys.argv:
        return 0 if text == render(text) else 1
    PAGE.write_text(render(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
