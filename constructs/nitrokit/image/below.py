"""What an image is made of lies below its folder: there it is reviewed, and there the cache sees it change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nitrokit.core.manifest import Dockerfile, EifFile, Manifest, Oci, Packages, Rootfs
from nitrokit.image.errors import ImageError
from nitrokit.image.lock import PACKAGES


def need_below(folder: Path, manifest: Manifest) -> None:
    """enclave.toml's paths stay below its folder, but a link there may lead elsewhere. Raises ImageError."""
    root = os.path.realpath(folder)
    for name in ("enclave.toml", *_named(manifest)):
        leads = os.path.realpath(folder / name)
        if not Path(leads).is_relative_to(root):
            raise ImageError(
                "outside",
                f"a link leads out of the image folder: {name}",
                got=leads,
                expected=f"something below {root}",
                do="copy it there: nobody would see it change",
            )


def _named(manifest: Manifest) -> Iterator[str]:
    """All but the key that signs, which makes no difference to what is measured and is best elsewhere."""
    match manifest.source:
        case Packages(requirements=requirements):
            yield from (PACKAGES, *([requirements] if requirements else []))
        case Dockerfile(path=path, context=context):
            yield from (path, context)
        case Oci(path=path) | Rootfs(path=path) | EifFile(path=path):
            yield path
    if manifest.app.source is not None:
        yield manifest.app.source
    if manifest.signing is not None:
        yield manifest.signing.certificate
