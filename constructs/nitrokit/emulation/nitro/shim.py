"""What the commands on an emulated parent's PATH run."""

from __future__ import annotations

import sys

from nitrokit.emulation.nitro import nitro_cli
from nitrokit.emulation.nitro.control import call


def main() -> int:
    """``shim NAME ARGUMENTS…``."""
    name, arguments = sys.argv[1], sys.argv[2:]
    if name == "nitro-cli":
        return nitro_cli.main(arguments)
    answer = call({"op": name, "arguments": arguments})
    sys.stdout.write(answer["stdout"])
    sys.stderr.write(answer["stderr"])
    return int(answer["exit"])


if __name__ == "__main__":
    sys.exit(main())
