"""What an image is made of, as a CycloneDX bill of materials beside the EIF: for scanners, and for whoever asks which code held the data. The same image gives the same bytes."""

from __future__ import annotations

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
from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.build import BuiltImage, read_manifest
from nitrokit.image.files import write_atomically
from nitrokit.image.inventory import has_nitrokit, inventory


def write_sbom(folder: Path, built: BuiltImage) -> Path:
    """Write ``<eif without .eif>.cdx.json`` beside the EIF and return its path. Raises what reading the folder's locks raises."""
    path = built.eif.with_name(built.eif.name.removesuffix(".eif") + ".cdx.json")
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
    for one in inventory(folder, built):
        namespace, qualifiers = {"deb": ("debian", distro), "apk": ("alpine", distro)}.get(one.kind, (None, {}))
        purl = PackageURL(one.kind, namespace, one.name.replace("_", "-") if one.kind == "pypi" else one.name, one.version, qualifiers)
        found.setdefault(str(purl), _component(one.name, one.version, purl, one.sha256))
    yield from found.values()
    if has_nitrokit(manifest):
        yield _component("nitrokit", __version__, PackageURL("pypi", None, "nitrokit", __version__), None)
    yield Component(name="kernel", type=ComponentType.OPERATING_SYSTEM, bom_ref="kernel", hashes=[_hash(built.sections["kernel"])])


def _component(name: str, version: str, purl: PackageURL, sha256: str | None) -> Component:
    hashes = [] if sha256 is None else [_hash(sha256)]
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl), hashes=hashes)


def _hash(sha256: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256)
