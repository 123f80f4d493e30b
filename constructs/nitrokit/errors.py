"""The error tree. Every error has a stable code ``area/slug`` (docs/errors.md lists them all; a code is never reused).

::

    NitrokitError          exit 1   the answer is no
    ├── UsageError         exit 2   the caller's input is wrong (flags, enclave.toml, a lock file)
    └── EnvironmentProblem exit 3   this machine lacks something (Node, a kernel, the network, a free port)

Each room declares its own classes below one of these three. The standard library only: the host agent ships this file and
runs on Python 3.9.
"""

from __future__ import annotations

from typing import ClassVar, Optional


class NitrokitError(Exception):
    """What went wrong, what was got, what was expected, what to do: one line each, no trailing full stop.

    ``code`` is ``area/slug``: the class's ``area`` and the ``slug`` of the cause.
    """

    area: ClassVar[str] = "nitrokit"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        slug: str,
        what: str,
        *,
        got: Optional[object] = None,
        expected: Optional[object] = None,
        do: Optional[str] = None,
    ) -> None:
        self.slug = slug
        self.what = what
        self.got = got
        self.expected = expected
        self.do = do
        super().__init__(what)

    @property
    def code(self) -> str:
        return f"{self.area}/{self.slug}"

    def __str__(self) -> str:
        parts = [f"{self.what} [{self.code}]"]
        if self.got is not None:
            parts.append(f"got: {self.got}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        if self.do is not None:
            parts.append(f"do: {self.do}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Optional[str]]:
        """The error as the CLI's ``--json`` prints it."""
        fields = {"got": self.got, "expected": self.expected, "do": self.do}
        return {"code": self.code, "what": self.what, **{key: None if value is None else str(value) for key, value in fields.items()}}


class UsageError(NitrokitError):
    """The caller's input is wrong."""

    area = "usage"
    exit_code = 2


class EnvironmentProblem(NitrokitError):
    """This machine lacks something that the command needs."""

    area = "environment"
    exit_code = 3
