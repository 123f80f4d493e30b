"""What moto lacks is put into its classes and modules, and taken off again. Of two clouds in one process the inner one ends first, and leaves what the outer one put there."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

_ABSENT = object()


def put(owner: type | ModuleType, **attributes: Any) -> Callable[[], None]:
    """Set attributes of a class or module; returns what restores them, or removes those that it did not have itself."""
    before = {name: owner.__dict__.get(name, _ABSENT) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)

    def restore() -> None:
        for name, value in before.items():
            if value is not _ABSENT:
                setattr(owner, name, value)
            elif name in owner.__dict__:
                delattr(owner, name)

    return restore
