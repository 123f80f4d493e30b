"""Names of the two architectures in the worlds that an image is made of."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """``debian``: dpkg's name; ``multiarch``: its folder of libraries; ``loader``: the C library's, there; ``machine``: ELF's number; ``oci``: Go's name;
    ``kernel``: its file among nitro-cli's blobs; ``wheels``: pip's platforms.
    """

    debian: str
    multiarch: str
    loader: str
    machine: int
    oci: str
    kernel: str
    wheels: tuple[str, ...]


def _wheels(name: str) -> tuple[str, ...]:
    return (f"manylinux_2_28_{name}", f"manylinux_2_17_{name}", f"manylinux2014_{name}")


ARCHITECTURES = {
    "x86_64": Architecture("amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2", 62, "amd64", "bzImage", _wheels("x86_64")),
    "aarch64": Architecture("arm64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1", 183, "arm64", "Image", _wheels("aarch64")),
}


def here() -> str:
    """This machine's architecture, as images name it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)
