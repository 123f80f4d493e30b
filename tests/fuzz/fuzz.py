"""Fuzz one target with atheris (coverage-guided): ``python tests/fuzz/fuzz.py TARGET CORPUS_FOLDER [libFuzzer options, e.g. -runs=100000 -seed=1]``.

Without a limit it runs until something escapes. The corpus folder is filled from the vectors where it is empty; libFuzzer adds to it what it finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nitrokit"]):
    sys.path.insert(0, str(Path(__file__).parent))
    import targets


def main(arguments: list[str]) -> None:
    """Run libFuzzer; it ends the process."""
    if len(arguments) < 2 or arguments[0] not in targets.TARGETS:
        sys.exit(f"usage: fuzz.py TARGET CORPUS_FOLDER [options]; targets: {', '.join(targets.TARGETS)}")
    target, folder = arguments[0], Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        for number, data in enumerate(targets.corpus(target)):
            (folder / f"seed{number:03}").write_bytes(data)
    atheris.Setup([sys.argv[0], *arguments[1:]], lambda data: targets.check(target, bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
