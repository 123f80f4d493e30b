"""Building an EIF: the same folder, lock and kernel give the same bytes on every machine."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nitrokit._version import __version__
from nitrokit.core import boot
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.eif.source import Buffer
from nitrokit.core.manifest import EifFile, Manifest, ManifestError, parse_manifest
from nitrokit.core.measurements import Measurements
from nitrokit.errors import UsageError
from nitrokit.image import aws_init, cpio
from nitrokit.image.application import Application, application
from nitrokit.image.base import bootstrap_ramdisk
from nitrokit.image.below import need_below
from nitrokit.image.compression import compressed
from nitrokit.image.content import CHUNK, Spool, Stored
from nitrokit.image.contents import Installed
from nitrokit.image.decompression import MAX_UNPACKED
from nitrokit.image.difference import section_hashes
from nitrokit.image.errors import KernelError
from nitrokit.image.files import replacing, scratch
from nitrokit.image.kernel import KernelBlobs
from nitrokit.image.lint import Finding, lint_size
from nitrokit.image.signing import SignWith, configured_signer
from nitrokit.image.sources import Workshop

SECTIONS = ("kernel", "cmdline", "ramdisk0", "ramdisk1")


@dataclass(frozen=True)
class BuiltImage:
    """``sections``: name (kernel, cmdline, ramdisk0, ramdisk1) → SHA-256 in hex of what is measured; ``findings``: what people should know of the image; ``installed``: what its root file system
    says is installed.
    """

    eif: Path
    measurements: Measurements
    sections: dict[str, str]
    findings: tuple[Finding, ...] = ()
    installed: tuple[Installed, ...] = ()


def read_manifest(folder: Path) -> Manifest:
    """The folder's enclave.toml. Raises UsageError, ManifestError."""
    path = folder / "enclave.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError("not-toml", f"{path} is not TOML", got=str(error), do="save it in UTF-8") from error
    except OSError as error:
        raise UsageError(
            "no-image",
            f"{folder} is not an image folder",
            got=str(error),
            expected="a folder with enclave.toml",
            do="name one, e.g. enclave_images/hello",
        ) from error
    return parse_manifest(text, path=str(path))


def build_image(
    folder: Path,
    *,
    kernel: KernelBlobs | None,
    output: Path,
    cache: Path,
    progress: Callable[[str], None],
    sign_with: SignWith | None = None,
) -> BuiltImage:
    """Build ``folder`` into the EIF ``output``, which appears only when whole. Memory does not grow with the image.

    ``kernel``: as ``kernel_for`` finds it; None: for an [eif] alone.
    ``sign_with``: how [signing] gets time and KMS; None: PCR8 is stated, as the certificate makes it, and the file is not signed. Raises UsageError, ManifestError, LockError, FetchError,
    ImageError, SigningError, BootError.
    """
    manifest = read_manifest(folder)
    need_below(folder, manifest)
    if isinstance(manifest.source, EifFile):
        return _given(folder / manifest.source.path, output)
    if kernel is None:
        raise KernelError("none", "an image that is built needs a kernel", do="give what kernel_for finds")
    boot.require_real(kernel.cmdline)
    with scratch(cache) as work:
        spool = Spool(work / "contents", limit=MAX_UNPACKED)
        with contextlib.closing(spool):
            shop = Workshop(folder, manifest.arch, cache, work, spool, progress)
            first = _ramdisk0(manifest, kernel, shop)
            return _write(folder, manifest, kernel, first, application(manifest, shop), output, sign_with)


def _ramdisk0(manifest: Manifest, kernel: KernelBlobs, shop: Workshop) -> Iterable[bytes]:
    if manifest.init == "aws":
        return cpio.chunks(aws_init.bootstrap(kernel))
    path = bootstrap_ramdisk(kernel, manifest.arch, cache=shop.cache, progress=shop.progress)
    return Stored(path, 0, path.stat().st_size).chunks()


def _write(
    folder: Path,
    manifest: Manifest,
    kernel: KernelBlobs,
    first: Iterable[bytes],
    made: Application,
    output: Path,
    sign_with: SignWith | None,
) -> BuiltImage:
    signer, pcr8 = configured_signer(folder, manifest.signing, sign_with)
    hashes = [hashlib.sha256() for _ in SECTIONS]
    bzimage, cmdline = kernel.bzimage.read_bytes(), kernel.cmdline
    hashes[0].update(bzimage)
    hashes[1].update(cmdline.encode())
    with replacing(output) as file:
        ramdisks = [
            _hashed(first, hashes[2]),
            _hashed(compressed(_joined(cpio.chunks(made.tree)), manifest.compression), hashes[3]),
        ]
        measured = write_eif(
            file, kernel=bzimage, cmdline=cmdline, ramdisks=ramdisks, metadata=_metadata(manifest), arch=manifest.arch, signer=signer
        )
        size = file.seek(0, 2)
    measurements = Measurements(measured.pcr0, measured.pcr1, measured.pcr2, pcr8)
    sections = {name: one.hexdigest() for name, one in zip(SECTIONS, hashes, strict=True)}
    return BuiltImage(output, measurements, sections, (*made.findings, *lint_size(size)), made.installed)


def _given(path: Path, output: Path) -> BuiltImage:
    """Measure an EIF, and copy it. Raises UsageError, EifError, BootError."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError("unreadable-file", f"cannot read {path}", got=str(error), expected="the EIF that [eif] names") from error
    with file, replacing(output) as target:
        eif = read_eif(file)
        boot.require_real(eif.cmdline)
        file.seek(0)
        while chunk := file.read(CHUNK):
            target.write(chunk)
        sections = section_hashes(eif)
    return BuiltImage(output, eif.measurements, sections, tuple(lint_size(path.stat().st_size)))


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Small pieces put together: each is handed to several threads."""
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _hashed(chunks: Iterable[Buffer], digest: hashlib._Hash) -> Iterator[Buffer]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _metadata(manifest: Manifest) -> dict[str, object]:
    """The metadata section that version 4 demands (nothing measures it). The build time is fixed, so that the file is the same too."""
    build = {
        "BuildTime": "1970-01-01T00:00:00+00:00",
        "BuildTool": "nitrokit",
        "BuildToolVersion": __version__,
        "OperatingSystem": "Linux",
        "KernelVersion": "unknown",
    }
    return {"ImageName": manifest.name, "ImageVersion": "1", "BuildMetadata": build, "DockerInfo": {}, "CustomMetadata": None}
