"""All commands, and how each may end: no traceback reaches a user; NITROKIT_DEBUG=1 shows it to a developer."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer
from typer.exceptions import TyperException

from nitrokit.cli import build, check_policy, doctor, explain, gate, ledger, local, lock, measure, report, sign, verify
from nitrokit.cli.output import drop_unwritten, fail, wants_json
from nitrokit.errors import EnvironmentProblem, NitrokitError, UsageError

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


def execute(arguments: list[str]) -> int:
    """Run one command, tell what went wrong, and return the exit code. Raises KeyboardInterrupt; BrokenPipeError when nobody reads."""
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="nitrokit")
        if sys.stdout is not None:
            sys.stdout.flush()
    except NitrokitError as error:
        return fail(error)
    except TyperException as error:
        return _usage(error)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # Typer ends it with 1, which is a no
            raise ending.__context__ from None
        raise
    except OSError as error:
        drop_unwritten()
        return _refused(error)
    except ModuleNotFoundError as error:
        return _incomplete(error)
    except Exception as error:
        return _undecodable(arguments) or _internal(error)
    return code if isinstance(code, int) else 0


def _usage(error: TyperException) -> int:
    """What Typer refuses. A group of commands that is named alone shows its help."""
    context, message = getattr(error, "ctx", None), error.format_message()
    if context is None:
        return fail(UsageError("arguments", "the arguments are not understood", got=message, do="see `nitrokit --help`"))
    if message == context.get_help() and not wants_json():
        print(message, file=sys.stderr)
        return 2
    usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
    do = f"see `{context.command_path} --help`"
    return fail(UsageError("arguments", "the arguments are not understood", got=message, expected=usage, do=do))


def _refused(error: OSError) -> int:
    """A full disk, a folder that may not be written, a file where a folder should be: the machine's, not ours."""
    if isinstance(error, BrokenPipeError):
        raise error
    if os.environ.get("NITROKIT_DEBUG"):
        traceback.print_exc()
    if error.errno == errno.ENAMETOOLONG:
        return fail(UsageError("long-path", "a path is longer than this machine allows", got=error, do="name a shorter one"))
    do = "make room" if error.errno == errno.ENOSPC else "check the path, its rights and its kind (NITROKIT_CACHE and TMPDIR name others)"
    return fail(EnvironmentProblem("files", "the machine refuses to read or write something", got=error, do=do))


def _incomplete(error: ModuleNotFoundError) -> int:
    """Commands load what they need when they run; the extra local brings all of it."""
    if (error.name or "nitrokit").startswith("nitrokit"):
        return _internal(error)
    return fail(
        EnvironmentProblem(
            "extra",
            "nitrokit is installed without what this command needs",
            got=error,
            do="install it with its extra local: pip install './nitrokit[local]'",
        )
    )


def _undecodable(arguments: list[str]) -> int | None:
    """Bytes that are no text may name a file, but nothing that is sent to AWS or written into JSON."""
    wrong = [one for one in arguments if any("\ud800" <= character <= "\udfff" for character in one)]
    if not wrong:
        return None
    return fail(UsageError("not-text", "an argument is not UTF-8", got=repr(wrong[0]), expected="text", do="name it in UTF-8"))


def _internal(error: Exception) -> int:
    if os.environ.get("NITROKIT_DEBUG"):
        traceback.print_exc()
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return fail(_Internal("internal", "nitrokit itself failed", got=message, do="run again with NITROKIT_DEBUG=1 and report the traceback"))


class _Internal(NitrokitError):
    exit_code = 3
