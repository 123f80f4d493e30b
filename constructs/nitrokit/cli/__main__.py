"""``nitrokit``: the entry point. It imports next to nothing, so that Ctrl-C ends in peace while the commands still load."""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType

INTERRUPTED, UNREAD = 130, 141  # as a shell tells of programs that SIGINT or SIGPIPE ended: neither a yes nor a no


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 fine, 1 the answer is no, 2 usage, 3 the environment, 130 interrupted, 141 nobody reads the output."""
    try:
        # A supervisor's SIGTERM ends a command as Ctrl-C does: everything it started is stopped and removed.
        signal.signal(signal.SIGTERM, _interrupt)
        code = _execute(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        from nitrokit.cli.output import drop_unwritten

        drop_unwritten()
        code = UNREAD
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _execute(arguments: list[str]) -> int:
    try:
        from nitrokit.cli.commands import execute
    except ModuleNotFoundError as error:
        if (error.name or "nitrokit").startswith("nitrokit"):
            raise
        from nitrokit.errors import EnvironmentProblem

        lacking = EnvironmentProblem(
            "extra",
            "nitrokit is installed without its command line",
            got=error,
            do="install it with its extra cli: pip install './nitrokit[cli]'",
        )
        print(f"error: {lacking}", file=sys.stderr)  # what tells errors otherwise needs the extra itself
        return lacking.exit_code
    return execute(arguments)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The console script. A locale that cannot say ✓ gets an escape, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
