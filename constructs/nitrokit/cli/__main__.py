"""``nitrokit``: the entry point. No traceback reaches a user; NITROKIT_DEBUG=1 shows it to a developer."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from types import FrameType

import typer
from typer.exceptions import TyperException

from nitrokit.cli import build, check_policy, doctor, explain, gate, ledger, local, lock, measure, report, sign, verify
from nitrokit.cli.output import fail
from nitrokit.errors import EnvironmentProblem, NitrokitError

app = typer.Typer(
    name="nitrokit",
    help="AWS Nitro Enclaves as ordinary infrastructure as code.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("build")(build.build)
app.command("measure")(measure.measure)
app.command("explain")(explain.explain)
app.command("lock")(lock.lock)
app.command("sign")(sign.sign)
app.command("verify")(verify.verify)
app.command("check-policy")(check_policy.check_policy)
app.command("gate")(gate.gate)
app.command("report")(report.report)
app.add_typer(ledger.app, name="ledger")
app.add_typer(local.app, name="local")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """AWS Nitro Enclaves as ordinary infrastructure as code."""
    if show:
        from nitrokit._version import __version__

        print(__version__)
        raise typer.Exit


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 fine, 1 the answer is no, 2 usage, 3 the environment, 130 interrupted."""
    # A supervisor's SIGTERM ends a command as Ctrl-C does: everything it started is stopped and removed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="nitrokit")
    except NitrokitError as error:
        return fail(error)
    except TyperException as error:
        # Its own presentation, where it has one: usage and a hint.
        show = getattr(error, "show", None)
        print(error.format_message(), file=sys.stderr) if show is None else show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _refused(error)
    except Exception as error:
        return _internal(error)
    return code if isinstance(code, int) else 0


def _refused(error: OSError) -> int:
    """A full disk, a folder that may not be written, a file where a folder should be: the machine's, not ours."""
    if os.environ.get("NITROKIT_DEBUG"):
        traceback.print_exc()
    do = "make room" if error.errno == errno.ENOSPC else "check the path, its rights and its kind (NITROKIT_CACHE and TMPDIR name others)"
    return fail(EnvironmentProblem("files", "the machine refuses to read or write something", got=error, do=do))


def _internal(error: Exception) -> int:
    if os.environ.get("NITROKIT_DEBUG"):
        traceback.print_exc()
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return fail(_Internal("internal", "nitrokit itself failed", got=message, do="run again with NITROKIT_DEBUG=1 and report the traceback"))


class _Internal(NitrokitError):
    exit_code = 3


def main() -> None:
    """The console script. A locale that cannot say ✓ gets an escape, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
