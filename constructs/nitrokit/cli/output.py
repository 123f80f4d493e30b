"""What the commands print: results on stdout (people or ``--json``), talk on stderr, errors in one form."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from nitrokit.errors import NitrokitError

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def result(value: Mapping[str, Any] | list[Any], *, as_json: bool, human: Callable[[], None]) -> None:
    """Print a command's result: JSON for machines, else what ``human`` prints."""
    if as_json:
        print(json.dumps(value, indent=2, sort_keys=False, default=str))
    else:
        human()
    sys.stdout.flush()  # a command that goes on running has said so


def printable(text: str) -> str:
    """For a terminal: what came out of an image may hold control characters that hide or forge lines."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii") for one in text)


def talk(message: str) -> None:
    """Say something on the way; never part of the result."""
    print(message, file=sys.stderr, flush=True)


def wants_json() -> bool:
    """Whether ``--json`` stands anywhere: an error is told before, or in spite of, what the arguments mean."""
    return "--json" in sys.argv


def fail(error: NitrokitError) -> int:
    """Print an error (what, got, expected, what to do) and return its exit code. With ``--json`` as JSON on stderr."""
    if wants_json():
        print(json.dumps({"error": error.as_dict()}, indent=2), file=sys.stderr)
        return error.exit_code
    print(f"error: {printable(error.what)} [{error.code}]", file=sys.stderr)
    for label, value in (("got", error.got), ("expected", error.expected), ("do this", error.do)):
        if value is not None:
            print(f"  {label + ':':<10}{printable(str(value))}", file=sys.stderr)
    return error.exit_code


def drop_unwritten() -> None:
    """What stdout and stderr do not take is not tried again at exit, where Python would tell of a failure of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Steps:
    """Progress of a long command: a spinner with the running step where stderr is a terminal, else one plain line a step."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self.seconds: dict[str, float] = {}
        self._status: Any = None
        self._title = ""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its time is kept in ``seconds``; a failing step is marked and the error goes on."""
        from rich.markup import escape

        started, self._title = time.monotonic(), escape(printable(title))
        mark = "[red]✗[/red]"
        try:
            if self._console.is_terminal:
                with self._console.status(self._title) as self._status:
                    yield
            else:
                yield
            mark = "[green]✓[/green]"
        finally:
            self._status = None
            self.seconds[title] = time.monotonic() - started
            self._console.print(f"{mark} {self._title} [dim]{self.seconds[title]:.1f} s[/dim]", soft_wrap=True)

    def note(self, message: str) -> None:
        """A detail of the running step, behind the spinner of a terminal; a log does not need it."""
        from rich.markup import escape

        if self._status is not None:
            self._status.update(f"{self._title} [dim]· {escape(message)}[/dim]")

    def say(self, message: str) -> None:
        """A line that stays."""
        from rich.markup import escape

        self._console.print(escape(message), soft_wrap=True)
