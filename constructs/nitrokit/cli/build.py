"""``nitrokit build IMAGE``: from an image folder to an EIF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.output import JsonOption, Steps, printable, result
from nitrokit.errors import NitrokitError

if TYPE_CHECKING:
    from nitrokit.image.audit import Audit, AuditProblem
    from nitrokit.image.build import BuiltImage


class DriftError(NitrokitError):
    """What was built is not what is locked."""

    area = "drift"


class AuditError(NitrokitError):
    """The image holds what is known to be vulnerable."""

    area = "audit"


def build(
    image: Annotated[Path, typer.Argument(help="The image folder (holds enclave.toml).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the EIF goes; default: IMAGE's name with .eif, here.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail (exit 1) when the measurements differ from measurements.json.")] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Fail (exit 1) when pip-audit knows vulnerabilities of the image's Python wheels.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build an enclave image file from a folder. The same bytes everywhere, without Docker."""
    from nitrokit.image.explain import explain
    from nitrokit.image.lock import read_lock
    from nitrokit.image.sbom import write_sbom

    lock = read_lock(image) if check and (image / "enclave.toml").is_file() else None  # a lock that is missing is told before the work
    steps = Steps()
    built, kernel = _build(image, output or Path(f"{Path(os.path.realpath(image)).name}.eif"), steps)
    sbom = write_sbom(image, built)
    differences = explain(lock, built) if lock else []
    audited = _audit(image, built, steps) if audit else None
    value = {
        "eif": str(built.eif),
        "size": built.eif.stat().st_size,
        "measurements": {f"PCR{index}": digest.hex() for index, digest in built.measurements.pcrs().items()},
        "sections": built.sections,
        "sbom": str(sbom),
        "kernel": kernel,
        "findings": [vars(finding) for finding in built.findings],
        **({"differences": differences} if check else {}),
        **({"audit": _as_dict(audited)} if audited else {}),
    }
    result(value, as_json=as_json, human=lambda: _print(built, sbom, audited))
    _raise(image, built, differences, audited)


def _build(image: Path, target: Path, steps: Steps) -> tuple[BuiltImage, str | None]:
    """The image, and a sentence on its kernel."""
    from nitrokit.image.build import build_image, read_manifest
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import kernel_for
    from nitrokit.image.signing import here

    manifest = read_manifest(image)  # a wrong folder is told before a kernel is built
    cache = cache_dir(os.environ)
    with steps.step("kernel"):
        kernel = kernel_for(manifest, os.environ, cache, steps.note)
    if kernel is not None:
        steps.say(f"  {kernel.source}")
    with steps.step(f"build {image}"):
        built = build_image(image, kernel=kernel, output=target, cache=cache, progress=steps.note, sign_with=here())
    return built, kernel.source if kernel is not None else None


def _audit(image: Path, built: BuiltImage, steps: Steps) -> Audit | AuditProblem:
    """What is known of the wheels, or why nothing is: the image is built all the same."""
    from nitrokit.image.audit import AuditProblem, audit
    from nitrokit.image.inventory import inventory

    try:
        with steps.step("audit"):
            return audit(inventory(image, built))
    except AuditProblem as problem:
        return problem


def _as_dict(audited: Audit | AuditProblem) -> dict[str, Any]:
    if isinstance(audited, NitrokitError):
        return {"error": audited.as_dict()}
    vulnerabilities = [vars(one) for one in audited.vulnerabilities]
    return {"checked": audited.checked, "vulnerabilities": vulnerabilities, "skipped": list(audited.skipped)}


def _print(built: BuiltImage, sbom: Path, audited: Audit | AuditProblem | None) -> None:
    print(f"{built.eif} ({built.eif.stat().st_size:,} bytes)")
    for index, digest in built.measurements.pcrs().items():
        print(f"PCR{index} {digest.hex()}")
    print(f"made of: {sbom}")
    for finding in built.findings:
        print(f"  ! {printable(str(finding))}")
    if audited is not None and not isinstance(audited, NitrokitError):
        print(f"audited: {audited.checked} Python packages, {len(audited.vulnerabilities)} known vulnerabilities")
        for line in (*audited.vulnerabilities, *(f"not audited: {one}" for one in audited.skipped)):
            print(f"  ! {line}")


def _raise(image: Path, built: BuiltImage, differences: list[str], audited: Audit | AuditProblem | None) -> None:
    """Where the answer is no. A difference goes before findings, and these before an audit that could not be made."""
    if differences:
        raise DriftError(
            "measurements",
            f"{built.eif} does not measure as {image / 'measurements.json'} says",
            got="; ".join(differences),
            expected="the same bytes",
            do="find out what changed; if the change is meant, run `nitrokit lock --measurements-only` and have the new lock reviewed",
        )
    if isinstance(audited, NitrokitError):
        raise audited
    if audited is not None and audited.vulnerabilities:
        raise AuditError(
            "vulnerable",
            f"{image} holds Python packages with known vulnerabilities",
            got="; ".join(map(str, audited.vulnerabilities[:8])),
            expected="none",
            do="raise the versions in the requirements' .in file, run `nitrokit lock`, and have the new lock reviewed",
        )
