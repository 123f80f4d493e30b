"""Reading one table of enclave.toml: every complaint names the file and the line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nitrokit.errors import UsageError


class ManifestError(UsageError):
    """An enclave.toml that cannot be used; the message names the file and the line."""

    area = "manifest"


class Locator:
    """Finds the line of a key: tomllib does not tell."""

    def __init__(self, text: str, path: str) -> None:
        self._lines = text.splitlines()
        self._path = path

    def __call__(self, key: str) -> str:
        pattern = re.compile(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*(\.|=|\]|$)")
        number = next((index for index, line in enumerate(self._lines, 1) if pattern.match(line)), 1)
        return f"{self._path}:{number}"


class Table:
    """A table whose keys are all known and of their types. Every method raises ManifestError."""

    def __init__(self, name: str, value: object, known: Mapping[str, type], where: Locator) -> None:
        self._name, self._where = name, where
        if not isinstance(value, dict):
            raise ManifestError("type", f"{name} at {where(name)} is not a table", got=type(value).__name__, expected=f"[{name}]")
        self._value: dict[str, Any] = value
        for key, item in value.items():
            if key not in known:
                raise unknown_key(key, f" in [{name}]", known, where)
            if not isinstance(item, known[key]) or isinstance(item, bool) != (known[key] is bool):
                raise ManifestError(
                    "type", f"{key} at {where(key)} has the wrong type", got=type(item).__name__, expected=known[key].__name__
                )

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def boolean(self, key: str) -> bool:
        return bool(self._value.get(key, False))

    def text(self, key: str, pattern: re.Pattern[str] | None = None, meaning: str | None = None) -> str:
        """A required text, of the pattern where one is given; ``meaning``: the pattern in words."""
        if key not in self._value:
            raise ManifestError("missing", f"no {key} in [{self._name}] at {self._where(self._name)}")
        value: str = self._value[key]
        if "\0" in value or (pattern is not None and not pattern.fullmatch(value)):
            expected = meaning or (pattern.pattern if pattern else "text without a zero byte")
            raise ManifestError("value", f"{key} at {self._where(key)} is not allowed", got=value, expected=expected)
        return value

    def optional(self, key: str, pattern: re.Pattern[str] | None = None) -> str | None:
        return self.text(key, pattern) if key in self._value else None

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of several texts; the first is the default."""
        value: str = self._value.get(key, allowed[0])
        if value not in allowed:
            raise ManifestError("value", f"{key} at {self._where(key)} is not allowed", got=value, expected=" or ".join(allowed))
        return value

    def number(self, key: str, least: int, most: int) -> int:
        """A required number within bounds."""
        if key not in self._value:
            raise ManifestError("missing", f"no {key} in [{self._name}] at {self._where(self._name)}")
        value: int = self._value[key]
        if not least <= value <= most:
            raise ManifestError("range", f"{key} at {self._where(key)} is out of range", got=value, expected=f"{least} to {most}")
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """A list of texts, at least one; None where the key is missing or the list is empty."""
        value = self._value.get(key)
        if not value:
            return None
        if not all(isinstance(item, str) and item and "\0" not in item for item in value):
            raise ManifestError(
                "type", f"{key} at {self._where(key)} is not a list of strings", got=repr(value)[:80], expected="at least one string"
            )
        return tuple(value)

    def mapping(self, key: str) -> dict[str, str]:
        """A table of texts."""
        value = self._value.get(key, {})
        if not all(isinstance(one, str) and "\0" not in name + one and name and "=" not in name for name, one in value.items()):
            raise ManifestError("type", f"{key} at {self._where(key)} has a name or value that is not a plain string")
        return dict(value)

    def relative(self, key: str, default: str | None = None) -> str:
        """A path that stays below the image folder."""
        value = self.text(key) if key in self._value or default is None else default
        if not value or value.startswith("/") or ".." in value.split("/"):
            raise ManifestError(
                "path", f"{key} at {self._where(key)} leaves the image folder", got=value, expected="a relative path below it"
            )
        return value

    def absolute(self, key: str) -> str | None:
        """A path in the enclave."""
        value = self.optional(key)
        if value is not None and (not value.startswith("/") or ".." in value.split("/")):
            raise ManifestError("path", f"{key} at {self._where(key)} is not absolute", got=value)
        return value


def unknown_key(key: str, inside: str, known: Mapping[str, object], where: Locator) -> ManifestError:
    return ManifestError(
        "unknown-key",
        f"unknown key {key!r}{inside} at {where(key)}",
        got=key,
        expected=", ".join(known),
        do="remove it, or correct its spelling",
    )
