"""What an image is made of: ramdisks, layers, OCI archives, packages and wheels."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from nitrokit.core.manifest import Oci
from nitrokit.image import archive, cpio
from nitrokit.image.content import Spool
from nitrokit.image.contents import installed
from nitrokit.image.decompression import uncompressed
from nitrokit.image.scripts import add_scripts
from nitrokit.image.sources import Workshop
from nitrokit.image.sources.layers import Layers
from nitrokit.image.sources.oci import read_layout
from nitrokit.image.unpack import Tree, add, unpack_deb, unpack_wheel


@cache
def _work() -> Path:
    return Path(tempfile.mkdtemp(prefix="nitrokit-fuzz-"))


def _file(data: bytes) -> Path:
    path = _work() / "file"
    path.write_bytes(data)
    return path


def _cpio(data: bytes) -> None:
    for _ in cpio.read(data):
        pass


def _ramdisk(data: bytes) -> None:
    for entry in archive.entries(data).values():
        entry.sha256()


def _layer(data: bytes) -> None:
    spool = Spool(_work() / "spool", limit=1 << 24)
    try:
        layers = Layers(spool, lambda path: path.startswith("x"))
        with uncompressed(io.BytesIO(data), "layer") as contents:
            layers.apply(contents, "layer")
        spool.flush()
        tree, _ = layers.result()
        cpio.write(tree)
        installed(tree)
    finally:
        spool.close()


def _oci(data: bytes) -> None:
    spool = Spool(_work() / "spool", limit=1 << 24)
    try:
        read_layout(Oci(_file(data).name), Workshop(_work(), "x86_64", _work(), _work(), spool, lambda _: None))
    finally:
        spool.close()


def _oci_json(data: bytes) -> None:
    """A layout whose index, manifest and configuration are the input's three lines: digests would stop any other mutation."""
    index, _, rest = data.partition(b"\n")
    manifest, _, config = rest.partition(b"\n")
    _oci(_layout(index, manifest, config))


def _deb(data: bytes) -> None:
    tree: Tree = {}
    unpack_deb(_file(data), tree)
    cpio.write(tree)


def _wheel(data: bytes) -> None:
    tree: Tree = {}
    unpack_wheel(_file(data), tree, "site")
    cpio.write(tree)


def _scripts(data: bytes) -> None:
    tree: Tree = {}
    add(tree, "site/x-1.dist-info/entry_points.txt", cpio.file(data))
    add_scripts(tree, "site", lambda _: False)
    cpio.write(tree)


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {"SCHILY.xattr.user.note": "x"} if name.endswith("c") else {}
            archive.addfile(member, io.BytesIO(content))
        for name, kind, target in (("a/link", tarfile.SYMTYPE, "b"), ("a/hard", tarfile.LNKTYPE, "a/b"), ("d", tarfile.DIRTYPE, "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return file.getvalue()


def _made_layers() -> list[bytes]:
    import gzip

    import zstandard

    plain = _tar({"a/b": b"content", "a/.wh.old": b"", "a/c": b"x" * 2000, "./usr/x.dist-info/METADATA": b"Name: x\nVersion: 1\n"})
    return [plain, gzip.compress(plain, mtime=0), lzma.compress(plain), zstandard.compress(plain)]


def _layout(index: bytes, manifest: bytes, config: bytes) -> bytes:
    """An OCI archive, its digests made right: index → manifest → configuration and one layer."""

    def name(blob: bytes) -> str:
        return hashlib.sha256(blob).hexdigest()

    layer = _tar({"a/b": b"content"})
    manifest = manifest.replace(b"CONFIG", name(config).encode()).replace(b"LAYER", name(layer).encode())
    blobs = {f"blobs/sha256/{name(blob)}": blob for blob in (manifest, config, layer)}
    return _tar({"index.json": index.replace(b"MANIFEST", name(manifest).encode()), **blobs})


def _made_oci_lines() -> list[bytes]:
    index = b'{"manifests": [{"digest": "sha256:MANIFEST", "platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"org.opencontainers.image.ref.name": "x"}}]}'
    manifest = b'{"config": {"digest": "sha256:CONFIG"}, "layers": [{"digest": "sha256:LAYER"}]}'
    return [b"\n".join([index, manifest, b'{"config": {"Cmd": ["x"], "Env": ["A=b"], "User": "1", "WorkingDir": "/"}}'])]


def _made_deb() -> list[bytes]:
    made = []
    tree = _tar({"./a/b": b"content"})
    for suffix, data in (("", tree), (".xz", lzma.compress(tree))):
        deb = b"!<arch>\n"
        for name, content in (("debian-binary", b"2.0\n"), (f"data.tar{suffix}", data)):
            deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        made.append(deb)
    return made


def _made_wheel() -> list[bytes]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name in ("x/a.py", "x-1.data/purelib/b.py", "x-1.dist-info/METADATA"):
                archive.writestr(zipfile.ZipInfo(name), b"content " * 20, compress_type=method)
        made.append(file.getvalue())
    return made


def _made_ramdisks() -> list[bytes]:
    import zstandard

    plain = cpio.write({"d": cpio.folder(), "d/f": cpio.file(b"content", 0o755), "l": cpio.link("d/f")})
    return [plain, bytes(512) + plain + plain, lzma.compress(plain), zstandard.compress(plain)]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "cpio": _cpio,
    "ramdisk": _ramdisk,
    "layer": _layer,
    "oci": _oci,
    "oci_json": _oci_json,
    "deb": _deb,
    "wheel": _wheel,
    "scripts": _scripts,
}
MADE: dict[str, Callable[[], list[bytes]]] = {
    "cpio": lambda: _made_ramdisks()[:1],
    "ramdisk": _made_ramdisks,
    "layer": _made_layers,
    "oci": lambda: [_layout(*_made_oci_lines()[0].split(b"\n"))],
    "oci_json": _made_oci_lines,
    "deb": _made_deb,
    "wheel": _made_wheel,
    "scripts": lambda: [b"[console_scripts]\nname = package.module:Object.run [extra]\n\n[gui_scripts]\nx = y\n"],
}
