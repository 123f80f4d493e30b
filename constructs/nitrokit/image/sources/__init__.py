"""Where an image's root file system comes from: each source gives the same thing, a tree and what Docker would call its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nitrokit.image.content import Spool
from nitrokit.image.unpack import Tree


@dataclass(frozen=True)
class ImageConfig:
    """What an image says of how it is run (OCI image-spec config.md). ``environment``: in the image's order."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_directory: str = ""
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceImage:
    """``notes``: what people should know of how it came to be (an unpinned base, attributes that an initial ramdisk cannot hold)."""

    tree: Tree
    config: ImageConfig = ImageConfig()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workshop:
    """What every source gets. ``folder``: the image's; ``arch``: wanted; ``spool``: takes contents that need not be in memory; ``work``: for temporary files."""

    folder: Path
    arch: str
    cache: Path
    work: Path
    spool: Spool
    progress: Callable[[str], None]
