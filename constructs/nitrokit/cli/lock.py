"""``nitrokit lock IMAGE``: resolve what an image is made of, build it, and write down what it measures."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.output import JsonOption, Steps, result
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.core.reference_values import ReferenceValues
    from nitrokit.image.build import BuiltImage

_DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S"]


def lock(
    image: Annotated[Path, typer.Argument(help="The image folder (holds enclave.toml).")],
    measurements_only: Annotated[
        bool, typer.Option("--measurements-only", help="Keep the locked packages; record the measurements alone.")
    ] = False,
    keep_old_until: Annotated[
        datetime | None,
        typer.Option("--keep-old-until", formats=_DATES, help="Rollover: what was current is accepted until then (UTC) if it differs."),
    ] = None,
    retire: Annotated[bool, typer.Option("--retire", help="Build nothing; drop the sets whose date has passed.")] = False,
    retire_all: Annotated[bool, typer.Option("--retire-all", help="Build nothing; drop every set but the current one.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pin packages and wheels, build, and record the measurements. Writes packages.lock.json, requirements.txt and measurements.json."""
    until = None if keep_old_until is None else keep_old_until.replace(tzinfo=UTC)
    _check(until, measurements_only, retire or retire_all)
    if retire or retire_all:
        values, dropped = _retire(image, everything=retire_all)
        _print(image, values, {"retired": dropped}, as_json)
    else:
        values, built = _build(image, measurements_only, until)
        _print(image, values, {"sections": built.sections}, as_json)


def _check(until: datetime | None, measurements_only: bool, retires: bool) -> None:
    if retires and (until is not None or measurements_only):
        raise UsageError("retire", "retiring builds nothing", got="another option beside --retire", do="retire in a command of its own")
    if until is not None and until <= datetime.now(UTC):
        raise UsageError(
            "past-date",
            "the old measurements would be retired already",
            got=until.isoformat(),
            expected="a date to come",
            do="name a later one, or leave --keep-old-until out",
        )


def _build(image: Path, measurements_only: bool, until: datetime | None) -> tuple[ReferenceValues, BuiltImage]:
    from nitrokit.image.build import build_image, read_manifest
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import kernel_for
    from nitrokit.image.lock import read_reference_values, record_measurements
    from nitrokit.image.resolve import lock_image

    manifest = read_manifest(image)  # a wrong folder is told before a kernel is built, and so is a lock that cannot be rolled over
    if until is not None:
        read_reference_values(image)
    steps = Steps()
    cache = cache_dir(os.environ)
    if not measurements_only:
        with steps.step(f"resolve {image}"):
            lock_image(image, progress=steps.note)
    with steps.step("kernel"):
        kernel = kernel_for(manifest, os.environ, cache, steps.note)
    if kernel is not None:
        steps.say(f"  {kernel.source}")
    with steps.step(f"build {image}"), tempfile.TemporaryDirectory(prefix="nitrokit-lock-") as folder:
        built = build_image(image, kernel=kernel, output=Path(folder) / "image.eif", cache=cache, progress=steps.note)
        return record_measurements(image, built, keep_old_until=until), built


def _retire(image: Path, *, everything: bool) -> tuple[ReferenceValues, list[str]]:
    """What stays, and the PCR0 of each set that went."""
    from nitrokit.image.lock import read_reference_values, write_reference_values

    values = read_reference_values(image)
    retired = values.retiring if everything else values.past(datetime.now(UTC))
    left = values.without(retired)
    if retired:
        write_reference_values(image, left)
    return left, [one.measurements.pcr0.hex() for one in retired]


def _print(image: Path, values: ReferenceValues, more: dict[str, Any], as_json: bool) -> None:
    pcrs = {f"PCR{index}": digest.hex() for index, digest in values.current.pcrs().items()}
    retiring = [one.as_object() for one in values.retiring]

    def human() -> None:
        print(f"{image / 'measurements.json'}: commit it, and have it reviewed like any dependency")
        for name, digest in pcrs.items():
            print(f"{name} {digest}")
        for one in retiring:
            print(f"accepted until {one['RetireAfter']}: PCR0 {one['Measurements']['PCR0']}")
        for digest in more.get("retired", ()):
            print(f"retired: PCR0 {digest}")

    result({"image": str(image), "measurements": pcrs, "retiring": retiring, **more}, as_json=as_json, human=human)
