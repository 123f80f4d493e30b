"""What enclave.toml says, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from nitrokit.core.manifest.fields import ManifestError

ARCHITECTURES = ("x86_64", "aarch64")
RESTARTS = ("never", "on-failure", "always")
COMPRESSIONS = ("none", "zstd")
INITS = ("nitrokit", "aws")
# The last label is not a number: such a name would be an address (RFC 3696 section 2).
HOST = re.compile(r"(?=.{1,253}\Z)(?!.*\.[0-9]+\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")
HOST_IN_WORDS = "a whole name in lower case: no wildcard, no address"
EGRESS_PORTS, EGRESS_VSOCK_PORTS = (1, 65535), (1024, 65535)


@dataclass(frozen=True)
class Packages:
    """Debian ``suite`` and packages to ``include`` with what they depend on, but for those to ``omit``; ``requirements``: the file of hashed wheels beside the manifest (None: no wheels);
    ``exclude``: patterns of paths (fnmatch, without a leading slash) that stay out of the image.
    """

    suite: str
    include: tuple[str, ...]
    requirements: str | None = None
    omit: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dockerfile:
    """Built by whichever of docker, buildah, podman and finch is found: ``path`` and ``context`` beside the manifest, a ``target`` stage, and build arguments."""

    path: str = "Dockerfile"
    context: str = "."
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Oci:
    """An OCI archive or layout at ``path``; ``reference``: the image's name in its index where there are several; ``digest``: the manifest's, which pins it."""

    path: str
    reference: str | None = None
    digest: str | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rootfs:
    """A root file system: a tar archive (plain, gzip, xz, zstd) or a folder at ``path``; ``sha256`` pins an archive."""

    path: str
    sha256: str | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class EifFile:
    """An EIF that was built elsewhere, at ``path``: measured, not built."""

    path: str


Source = Packages | Dockerfile | Oci | Rootfs | EifFile


@dataclass(frozen=True)
class App:
    """``source`` is copied to ``working_directory``; ``command`` runs there as ``user`` with ``environment``. None: what the image of the source says, as Docker has it.

    ``logs``: whether the parent may read what the app prints (the parent is not trusted with data). ``restart``: when the app is started again after its end; else the enclave ends.
    ``ready_port``: the TCP port of the app that takes connections once it is ready; None: ready while it runs.
    """

    source: str | None = None
    command: tuple[str, ...] | None = None
    working_directory: str | None = None
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    logs: bool = False
    restart: str = "never"
    ready_port: int | None = None


@dataclass(frozen=True)
class Egress:
    """An allowed destination: ``host``:``port`` goes to the parent's vsock port ``vsock_port``. Raises ManifestError."""

    host: str
    port: int
    vsock_port: int

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not HOST.fullmatch(self.host):
            raise ManifestError("value", "an egress's host is not allowed", got=f"{self.host!r:.80}", expected=HOST_IN_WORDS)
        for name, (low, high) in (("port", EGRESS_PORTS), ("vsock_port", EGRESS_VSOCK_PORTS)):
            port = getattr(self, name)
            if type(port) is not int or not low <= port <= high:
                raise ManifestError("range", f"an egress's {name} is out of range", got=f"{port!r:.80}", expected=f"{low} to {high}")


@dataclass(frozen=True)
class Ingress:
    """The enclave's vsock port ``vsock_port`` leads to the app's TCP ``port`` on the loopback interface."""

    port: int
    vsock_port: int


@dataclass(frozen=True)
class Signing:
    """Who signs the image: ``certificate`` (PEM, beside the manifest), and where its key is: ``key`` (a file, never in the image folder's history) or ``kms_key`` (an ARN)."""

    certificate: str
    key: str | None = None
    kms_key: str | None = None


@dataclass(frozen=True)
class Manifest:
    """One image. ``memory_mib`` None: computed from the EIF's size. ``compression``: of ramdisk 1. ``init``: whose PID 1: nitrokit's, or AWS's, which runs a command and no more."""

    name: str
    arch: str
    cpu_count: int
    memory_mib: int | None
    source: Source
    app: App
    egress: tuple[Egress, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    compression: str = "none"
    init: str = "nitrokit"
    signing: Signing | None = None
