"""OCI archives and layouts (OCI image-spec image-layout.md), which is also what `docker save` writes since Docker 25: every blob is checked against its digest."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from nitrokit.core.manifest import Oci
from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.decompression import uncompressed
from nitrokit.image.errors import ImageError
from nitrokit.image.exclude import excluder
from nitrokit.image.sources import ImageConfig, SourceImage, Workshop
from nitrokit.image.sources.layers import Layers

_MAX_JSON = 4 << 20
_MAX_DEPTH = 4
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_CHUNK = 1 << 20


def read_oci(source: Oci, shop: Workshop) -> SourceImage:
    """The image for the wanted architecture, and a note where nothing pins it. Raises ImageError."""
    image = read_layout(source, shop)
    notes = () if source.digest else (f"{source.path} is not pinned: name its digest in [oci]",)
    return replace(image, notes=(*notes, *image.notes))


def read_layout(source: Oci, shop: Workshop) -> SourceImage:
    """The image for the wanted architecture. Raises ImageError."""
    with _layout(shop.folder / source.path) as blobs:
        manifest = _manifest(blobs, source, shop.arch)
        config = blobs.json(manifest["config"])
        layers = Layers(shop.spool, excluder(source.exclude))
        for number, descriptor in enumerate(_list(manifest, "layers"), 1):
            shop.progress(f"layer {number} {str(descriptor.get('digest'))[:19]}…")
            with blobs.open(descriptor) as file, uncompressed(file, str(descriptor.get("digest"))) as contents:
                layers.apply(contents, str(descriptor.get("digest")))
    tree, lost = layers.result()
    return SourceImage(tree, image_config(config), lost)


def image_config(config: dict[str, Any]) -> ImageConfig:
    """From an image's JSON configuration. Raises ImageError."""
    value = config.get("config") or {}
    try:
        pairs = dict(one.split("=", 1) for one in value.get("Env") or [])
        words = [value.get(name) or [] for name in ("Entrypoint", "Cmd")]
        texts = [*words[0], *words[1], *pairs.values(), value.get("WorkingDir") or "", value.get("User") or ""]
        if not all(isinstance(text, str) and "\0" not in text for text in texts) or not all(isinstance(one, list) for one in words):
            raise TypeError("not text")
    except (AttributeError, TypeError, ValueError) as error:
        raise ImageError("oci", "the image's configuration is malformed", got=str(error)[:120]) from error
    return ImageConfig(tuple(words[0]), tuple(words[1]), value.get("WorkingDir") or "", value.get("User") or "", pairs)


class _Blobs:
    """Blobs of a layout by descriptor. ``read``: path in the layout → an open file, or KeyError."""

    def __init__(self, read: Callable[[str], IO[bytes]], where: str) -> None:
        self._read = read
        self.where = where

    def file(self, path: str) -> IO[bytes]:
        try:
            return self._read(path)
        except (KeyError, OSError) as error:
            raise ImageError(
                "oci", f"{self.where} is no OCI image, or not a whole one", got=f"no {path}", expected="an OCI layout or archive"
            ) from error

    def open(self, descriptor: dict[str, Any]) -> IO[bytes]:
        """A blob that is what its digest says. Raises ImageError."""
        algorithm, _, digest = str(descriptor.get("digest")).partition(":")
        if algorithm != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ImageError("oci", f"{self.where} names a blob by something else than a SHA-256", got=str(descriptor.get("digest"))[:80])
        file = self.file(f"blobs/sha256/{digest}")
        got = _sha256(file)
        if got != digest:
            file.close()
            raise ImageError(
                "oci-digest", f"a blob of {self.where} is not what its name says", got=f"sha256:{got}", expected=f"sha256:{digest}"
            )
        file.seek(0)
        return file

    def json(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        with self.open(descriptor) as file:
            return _json(file, self.where)


def _sha256(file: IO[bytes]) -> str:
    """What of a blob can be read: a cut-off archive gives another digest."""
    got = hashlib.sha256()
    with suppress(tarfile.ReadError):
        while chunk := file.read(_CHUNK):
            got.update(chunk)
    return got.hexdigest()


def _json(file: IO[bytes], where: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read(_MAX_JSON))
    except (ValueError, RecursionError, tarfile.ReadError) as error:
        raise ImageError("oci", f"{where} has JSON that is damaged", got=str(error)[:120]) from error
    if not isinstance(value, dict):
        raise ImageError("oci", f"{where} has JSON of another form", got=type(value).__name__)
    return value


@contextmanager
def _layout(path: Path) -> Iterator[_Blobs]:
    """A folder, or a tar archive of one."""
    if path.is_dir():
        yield _Blobs(lambda name: (path / name).open("rb"), path.name)
        return
    try:
        archive = tarfile.open(path, mode="r:", encoding="utf-8")
        members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
    except (OSError, tarfile.TarError) as error:
        raise ImageError(
            "oci", f"cannot read {path}", got=str(error)[:160], expected="an OCI layout (a folder) or archive (a plain tar)"
        ) from error
    with archive:
        yield _Blobs(lambda name: cast(IO[bytes], archive.extractfile(members[name])), path.name)


def _manifest(blobs: _Blobs, source: Oci, arch: str) -> dict[str, Any]:
    """The manifest for the architecture, through indexes of several."""
    with blobs.file("index.json") as file:
        candidates = _list(_json(file, blobs.where), "manifests")
    if source.reference is not None:
        names = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
        candidates = [one for one in candidates if source.reference in [_table(one, "annotations").get(name) for name in names]]
    if source.digest is not None and source.digest in [one.get("digest") for one in candidates]:
        candidates = [one for one in candidates if one.get("digest") == source.digest]
    pinned = source.digest is None
    for _ in range(_MAX_DEPTH):
        descriptor = _choose(candidates, source, arch, blobs.where)
        pinned = pinned or descriptor.get("digest") == source.digest
        value = blobs.json(descriptor)
        if "manifests" not in value and descriptor.get("mediaType") not in _INDEXES:
            if not pinned:
                raise ImageError(
                    "oci-digest", f"{blobs.where} is not the pinned image", got=str(descriptor.get("digest")), expected=source.digest
                )
            if not isinstance(value.get("config"), dict):
                raise ImageError("oci", f"{blobs.where} has a manifest without configuration", got=", ".join(value))
            return value
        candidates = _list(value, "manifests")
    raise ImageError("oci", f"the indexes of {blobs.where} are nested too deeply", expected=f"at most {_MAX_DEPTH}")


def _choose(candidates: list[dict[str, Any]], source: Oci, arch: str, where: str) -> dict[str, Any]:
    """The one for linux and our architecture; attestations that BuildKit adds (platform unknown) are none."""
    wanted = ("linux", ARCHITECTURES[arch].oci)
    platforms = [
        f"{platform.get('os', wanted[0])}/{platform.get('architecture', wanted[1])}"
        for platform in (_table(one, "platform") for one in candidates)
    ]
    fitting = [one for one, platform in zip(candidates, platforms, strict=True) if platform == "/".join(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    names = [str(_table(one, "annotations").get("org.opencontainers.image.ref.name", one.get("digest"))) for one in candidates]
    raise ImageError(
        "oci-choice",
        f"{where} has {len(fitting)} images that fit",
        got=", ".join(f"{name} ({platform})" for name, platform in zip(names, platforms, strict=True)) or "none",
        expected=f"one for {'/'.join(wanted)}" + (f" named {source.reference}" if source.reference else ""),
        do="name reference or digest in [oci], or arch in [enclave]",
    )


def _table(value: dict[str, Any], key: str) -> dict[str, Any]:
    """What stands there, where it is a table."""
    table = value.get(key)
    return table if isinstance(table, dict) else {}


def _list(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = value.get(key)
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise ImageError("oci", f"the OCI image has no list of {key}", got=type(items).__name__)
    return items
