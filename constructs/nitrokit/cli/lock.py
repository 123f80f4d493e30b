"""``nitrokit lock IMAGE``: resolve what an image is made of, build it, and write down what it measures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.output import JsonOption, Steps, result


def lock(
    image: Annotated[Path, typer.Argument(help="The image folder (holds enclave.toml).")],
    measurements_only: Annotated[
        bool, typer.Option("--measurements-only", help="Keep the locked packages; record the measurements alone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Resolve packages and wheels, build, and write the lock: packages, requirements, measurements.json."""
    from nitrokit.image.build import build_image, read_manifest
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import find_kernel
    from nitrokit.image.lock import record_measurements
    from nitrokit.image.resolve import lock_image

    read_manifest(image)  # a wrong folder is told before a kernel is built
    steps = Steps()
    cache = cache_dir(os.environ)
    if not measurements_only:
        with steps.step(f"resolve {image}"):
            lock_image(image, progress=steps.note)
    with steps.step("kernel"):
        kernel = find_kernel(os.environ, cache, steps.note)
    steps.say(f"  {kernel.source}")
    with steps.step(f"build {image}"), tempfile.TemporaryDirectory(prefix="nitrokit-lock-") as folder:
        built = build_image(image, kernel=kernel, output=Path(folder) / "image.eif", cache=cache, progress=steps.note)
        record_measurements(image, built)
    pcrs = {f"PCR{index}": digest.hex() for index, digest in built.measurements.pcrs().items()}

    def human() -> None:
        print(f"{image / 'measurements.json'}: commit it, and have it reviewed like any dependency")
        for name, digest in pcrs.items():
            print(f"{name} {digest}")

    result({"image": str(image), "measurements": pcrs, "sections": built.sections}, as_json=as_json, human=human)
