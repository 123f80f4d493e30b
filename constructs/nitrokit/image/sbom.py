"""What an image is made of, as a CycloneDX bill of materials beside the EIF: for scanners, and for whoever asks which code held the data. The same image gives the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from nitrokit._version import __version__
from nitrokit.core.manifest import EifFile, Manifest, Packages
from nitrokit.image import base
from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.build import BuiltImage, read_manifest
from nitrokit.image.contents import Installed
from nitrokit.image.files import write_atomically
from nitrokit.image.lock import PACKAGES, read_package_lock

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def write_sbom(folder: Path, built: BuiltImage) -> Path:
    """Write ``<eif without .eif>.cdx.json`` beside the EIF and return its path. Raises what reading the folder's locks raises."""
    path = built.eif.with_suffix(".cdx.json")
    write_atomically(path, [(JsonV1Dot6(_bom(folder, built)).output_as_string(indent=2) + "\n").encode()])
    return path


def _bom(folder: Path, built: BuiltImage) -> Bom:
    manifest = read_manifest(folder)
    pcrs = [Property(name=f"nitrokit:PCR{index}", value=value.hex()) for index, value in built.measurements.pcrs().items()]
    image = Component(name=manifest.name, type=ComponentType.CONTAINER, bom_ref=f"image {manifest.name}", properties=pcrs)
    # Nothing in it tells when or where it was made: the image's own measurement is its serial number.
    metadata = BomMetaData(component=image, timestamp=datetime(1970, 1, 1, tzinfo=UTC))
    components = list(_components(folder, built))
    bom = Bom(components=components, metadata=metadata, serial_number=uuid5(NAMESPACE_URL, built.measurements.pcr0.hex()))
    bom.register_dependency(image, components)
    return bom


def _components(folder: Path, built: BuiltImage) -> Iterator[Component]:
    manifest = read_manifest(folder)
    distro = {"arch": ARCHITECTURES[manifest.arch].debian}
    found: dict[str, Component] = {}
    for one in [*_locked(folder, manifest), *built.installed]:
        namespace, qualifiers = {"deb": ("debian", distro), "apk": ("alpine", distro)}.get(one.kind, (None, {}))
        purl = PackageURL(one.kind, namespace, one.name.replace("_", "-") if one.kind == "pypi" else one.name, one.version, qualifiers)
        found.setdefault(str(purl), _component(one.name, one.version, purl, one.sha256))
    yield from found.values()
    yield _component("nitrokit", __version__, PackageURL("pypi", None, "nitrokit", __version__), None)
    yield Component(name="kernel", type=ComponentType.OPERATING_SYSTEM, bom_ref="kernel", hashes=[_hash(built.sections["kernel"])])


def _locked(folder: Path, manifest: Manifest) -> Iterator[Installed]:
    """What ramdisk 0 is made of, and an image of packages: by their locks."""
    if isinstance(manifest.source, EifFile):
        return
    pairs: list[tuple[Path, Path | None]] = []
    if manifest.init == "nitrokit":
        pairs.append((base.lock_path(manifest.arch), base.requirements_path(manifest.arch)))
    if isinstance(manifest.source, Packages):
        pairs.append((folder / PACKAGES, None if manifest.source.requirements is None else folder / manifest.source.requirements))
    for lock, requirements in pairs:
        for package in read_package_lock(lock).packages:
            yield Installed("deb", package.name, package.version, package.sha256)
        for name, version in [] if requirements is None else _REQUIREMENT.findall(requirements.read_text()):
            yield Installed("pypi", name.lower(), version)


def _component(name: str, version: str, purl: PackageURL, sha256: str | None) -> Component:
    hashes = [] if sha256 is None else [_hash(sha256)]
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl), hashes=hashes)


def _hash(sha256: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256)
