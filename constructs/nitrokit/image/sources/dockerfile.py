"""A Dockerfile, built by whichever of docker, buildah, podman and finch is found, with times clamped where the builder can, and read as an OCI archive."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nitrokit.core.manifest import Dockerfile, Oci
from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.errors import FetchError, ImageError
from nitrokit.image.sources import SourceImage, Workshop
from nitrokit.image.sources.oci import read_layout

BUILDERS = ("docker", "buildah", "podman", "finch")
_ENGINES = ("docker", "finch")
_FROM = re.compile(r"^\s*FROM\s+(?:--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE | re.MULTILINE)
_VARIABLE = "NITROKIT_CONTAINER_BUILDER"


def read_dockerfile(source: Dockerfile, shop: Workshop) -> SourceImage:
    """Build, and read the result. Raises ImageError, FetchError."""
    path, context = shop.folder / source.path, shop.folder / source.context
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError("dockerfile", f"cannot read {path}", got=str(error), expected="the Dockerfile that [dockerfile] names") from error
    builder = find_builder(os.environ)
    with tempfile.TemporaryDirectory(prefix=".oci-", dir=shop.work) as name:
        archive = Path(name) / "image.tar"
        shop.progress(f"{builder} builds {source.path}")
        for command in commands(builder, source, path, context, archive, ARCHITECTURES[shop.arch].oci):
            _run(command, source.path)
        image = read_layout(Oci(archive.name, exclude=source.exclude), replace(shop, folder=archive.parent))
    return replace(image, notes=(*unpinned(text, source.path), *image.notes))


def find_builder(environment: Mapping[str, str]) -> str:
    """NITROKIT_CONTAINER_BUILDER, else the first on PATH that answers. Raises FetchError."""
    wanted = environment.get(_VARIABLE)
    for name in (wanted,) if wanted else BUILDERS:
        if shutil.which(name) and _answers(name):
            return name
    raise FetchError(
        "no-builder",
        "no program that builds Dockerfiles answers",
        got=wanted or "none of " + ", ".join(BUILDERS),
        expected="docker with its engine running, buildah, podman or finch",
        do=f"install buildah, or choose one by {_VARIABLE}; images from [packages], [oci] or [rootfs] need none",
    )


def _answers(name: str) -> bool:
    """Docker and finch are clients: without their engine they only say so."""
    command = [name, "info"] if Path(name).name in _ENGINES else [name, "--version"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # another machine's program, or a script whose interpreter is gone
        return False


def commands(builder: str, source: Dockerfile, path: Path, context: Path, archive: Path, architecture: str) -> list[list[str]]:
    """What is run, in order. BuildKit writes the archive itself; buildah and podman build, push from their storage, and remove the tag."""
    options = ["--file", str(path), "--platform", f"linux/{architecture}"]
    options += [word for name, value in sorted(source.arguments.items()) for word in ("--build-arg", f"{name}={value}")]
    options += ["--target", source.target] if source.target else []
    tag = f"nitrokit-build-{os.getpid()}"
    if Path(builder).name in _ENGINES:
        clamp = ["--build-arg", "SOURCE_DATE_EPOCH=0", "--provenance=false", "--sbom=false"]
        return [[builder, "buildx", "build", *options, *clamp, "--output", f"type=oci,dest={archive},rewrite-timestamp=true", str(context)]]
    global_options = os.environ.get(f"{_VARIABLE}_OPTIONS", "").split()
    build = [builder, *global_options, "build", *_isolation(builder), "--timestamp", "0", "--tag", tag, *options, str(context)]
    push = [builder, *global_options, "push", tag, f"oci-archive:{archive}"]
    return [build, push, [builder, *global_options, "rmi", tag]]


def _isolation(builder: str) -> list[str]:
    """Buildah reads BUILDAH_ISOLATION itself; podman takes what it has."""
    return ["--isolation", os.environ.get("BUILDAH_ISOLATION", "chroot")] if Path(builder).name == "buildah" else []


def unpinned(dockerfile: str, name: str) -> list[str]:
    """A note for each base image that is named by a tag: tags move."""
    stages: set[str] = set()
    notes = []
    for base, stage in _FROM.findall(dockerfile):
        if "@sha256:" not in base and base.lower() not in stages and base.lower() != "scratch":
            notes.append(f"{name} starts from {base}, which is not pinned by digest: another build may give other measurements")
        stages.add(stage.lower())
    return notes


def _run(command: list[str], name: str) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    if done.returncode:
        raise FetchError(
            "build",
            f"{command[0]} could not build {name}",
            got=" | ".join((done.stderr or done.stdout).strip().splitlines()[-8:])[-1200:],
            expected="a Dockerfile that builds on this machine",
            do=f"run it yourself: {' '.join(command)}",
        )
