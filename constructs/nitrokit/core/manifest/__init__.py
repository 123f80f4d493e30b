"""``enclave.toml``: what an image is made of. Keys that are not known are refused, with the file and the line."""

from nitrokit.core.manifest.fields import ManifestError
from nitrokit.core.manifest.model import App, Dockerfile, Egress, EifFile, Ingress, Manifest, Oci, Packages, Rootfs, Signing, Source
from nitrokit.core.manifest.parse import parse_manifest, parse_packages

__all__ = [
    "App",
    "Dockerfile",
    "Egress",
    "EifFile",
    "Ingress",
    "Manifest",
    "ManifestError",
    "Oci",
    "Packages",
    "Rootfs",
    "Signing",
    "Source",
    "parse_manifest",
    "parse_packages",
]
