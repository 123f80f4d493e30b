"""``nitrokit build IMAGE``: from an image folder to an EIF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.output import JsonOption, Steps, result
from nitrokit.errors import NitrokitError


class DriftError(NitrokitError):
    """What was built is not what is locked."""

    area = "drift"


def build(
    image: Annotated[Path, typer.Argument(help="The image folder (holds enclave.toml).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the EIF goes; default: IMAGE's name with .eif, here.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail (exit 1) when the measurements differ from measurements.json.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build an enclave image file from a folder, reproducibly, without Docker."""
    from nitrokit.image.build import build_image, read_manifest
    from nitrokit.image.explain import explain
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import kernel_for
    from nitrokit.image.lock import read_lock
    from nitrokit.image.sbom import write_sbom
    from nitrokit.image.signing import here

    manifest = read_manifest(image)  # a wrong folder is told before a kernel is built
    steps = Steps()
    cache = cache_dir(os.environ)
    target = output or Path(f"{image.resolve().name}.eif")
    with steps.step("kernel"):
        kernel = kernel_for(manifest, os.environ, cache, steps.note)
    if kernel is not None:
        steps.say(f"  {kernel.source}")
    with steps.step(f"build {image}"):
        built = build_image(image, kernel=kernel, output=target, cache=cache, progress=steps.note, sign_with=here())
    sbom = write_sbom(image, built)
    differences = explain(read_lock(image), built) if check else []
    value = {
        "eif": str(built.eif),
        "size": built.eif.stat().st_size,
        "measurements": {f"PCR{index}": digest.hex() for index, digest in built.measurements.pcrs().items()},
        "sections": built.sections,
        "sbom": str(sbom),
        "kernel": kernel.source if kernel is not None else None,
        "findings": [vars(finding) for finding in built.findings],
        **({"differences": differences} if check else {}),
    }

    def human() -> None:
        print(f"{built.eif} ({built.eif.stat().st_size:,} bytes)")
        for index, digest in built.measurements.pcrs().items():
            print(f"PCR{index} {digest.hex()}")
        print(f"made of: {sbom}")
        for finding in built.findings:
            print(f"  ! {finding}")

    result(value, as_json=as_json, human=human)
    if differences:
        raise DriftError(
            "measurements",
            f"{target} does not measure as {image / 'measurements.json'} says",
            got="; ".join(differences),
            expected="the same bytes",
            do="find out what changed; if the change is meant, run `nitrokit lock --measurements-only` and have the new lock reviewed",
        )
