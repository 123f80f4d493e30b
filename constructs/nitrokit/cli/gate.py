"""``nitrokit gate``: is what is built, synthesised, deployed and running what the lock says?"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.files import write_file
from nitrokit.cli.output import JsonOption, Steps, talk
from nitrokit.errors import EnvironmentProblem, UsageError
from nitrokit.image import aws

if TYPE_CHECKING:
    from nitrokit.gate.locks import LockedImage
    from nitrokit.gate.report import Comparison, GateReport, Place
    from nitrokit.gate.run import Plan

_IMAGES = Path("enclave_images")
_UNREACHABLE, _AGAIN = 3, 15.0


def gate(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image folders, or the folder that holds them. Default: enclave_images.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build each image from source, whatever the cache holds, and compare.")
    ] = False,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference", help="An EIF of the locked image: says which files a differing rebuild moved.", exists=True, dir_okay=False
        ),
    ] = None,
    templates: Annotated[Path | None, typer.Option("--templates", help="Compare the synthesised templates of this cdk.out.")] = None,
    stack: Annotated[
        list[str] | None, typer.Option("--stack", help="Compare this deployed stack: its keys, hosts and running enclaves.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="Compare this KMS key too: ARN, id or alias.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Of deployed stacks, only these: key, host, enclave. May be repeated.")
    ] = None,
    wait: Annotated[int, typer.Option("--wait", help="Compare again, for so many seconds, while something is not reachable.", min=0)] = 0,
    settled: Annotated[bool, typer.Option("--settled", help="A rollover that is still under way counts as drift.")] = False,
    root: Annotated[
        Path | None, typer.Option("--root", help="Trust anchor of documents, DER or PEM. Default: AWS's Nitro Enclaves root G1.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="The AWS Region. Default: the environment's.")] = None,
    format_name: Annotated[str, typer.Option("--format", help="table, json, sarif, junit, github or markdown, on stdout.")] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output", help="Write the report to a file too: by suffix (.json .sarif .xml .md .txt), or FORMAT=FILE. May be repeated."
        ),
    ] = None,
    iam_policy: Annotated[
        bool, typer.Option("--iam-policy", help="Print the IAM policy that the gate needs, and do nothing else.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the lock with what is built, deployed and running. A rebuild, templates, deployed keys, hosts and enclaves (exit 1: drift; 3: something asked for was not reachable)."""
    from nitrokit.gate.formats import FORMATS

    if iam_policy:
        print(json.dumps(_access(stack, region), indent=2))
        return
    shown = _format("json" if as_json else format_name)
    targets = [_target(one) for one in output or []]
    plan = _plan(images, rebuild, reference, templates, stack, key, only, root, region)
    report = _compare(plan, wait, settled)
    sys.stdout.writelines(FORMATS[shown](report))
    for name, path in targets:
        write_file(path, map(str.encode, FORMATS[name](report)))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _plan(
    images: list[Path] | None,
    rebuild: bool,
    reference: list[Path] | None,
    templates: Path | None,
    stacks: list[str] | None,
    keys: list[str] | None,
    only: list[str] | None,
    root: Path | None,
    region: str | None,
) -> Plan:
    from nitrokit.cli.trust import trust_anchor
    from nitrokit.gate.locks import read_images
    from nitrokit.gate.run import Plan

    if not (rebuild or templates or stacks or keys):
        raise UsageError(
            "nothing-asked",
            "nothing to compare the lock with",
            expected="--rebuild, --templates, --stack or --key",
            do="name what to compare",
        )
    if only and not stacks:
        raise UsageError(
            "nothing-to-narrow",
            "--only narrows what is compared of a stack",
            got="no stack",
            expected="--stack",
            do="name the stack, or leave --only out",
        )
    locked = read_images(folder for one in images or [_IMAGES] for folder in _folders(one))
    return Plan(
        locked,
        _rebuilder(reference or []) if rebuild else None,
        templates,
        stacks or [],
        keys or [],
        _places(only),
        client=_client(region),
        trust_anchor=trust_anchor(root),
        clock=lambda: datetime.now(UTC),
    )


def _compare(plan: Plan, wait: int, settled: bool) -> GateReport:
    """Again and again while nothing drifts and something is not reachable, as long as ``wait`` allows."""
    from nitrokit.gate.run import run_gate

    deadline = time.monotonic() + wait
    while True:
        report = replace(run_gate(plan), settled=settled)
        left = deadline - time.monotonic()
        if report.exit_code != _UNREACHABLE or left <= 0:
            return report
        talk(f"not everything is reachable yet; {left:.0f} s are left")
        time.sleep(min(_AGAIN, left))


def _folders(folder: Path) -> list[Path]:
    """An image folder, or the folder of several: then those of them that have a lock."""
    from nitrokit.image.lock import MEASUREMENTS

    if (folder / "enclave.toml").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{MEASUREMENTS}"))
    if not found:
        raise UsageError("no-image", f"no locked image below {folder}", expected="image folders", do="name them, or run `nitrokit lock`")
    return found


def _rebuilder(references: list[Path]) -> Callable[[LockedImage], Comparison]:
    from nitrokit.gate.rebuild import Workshop, compare_rebuild
    from nitrokit.image.fetch import cache_dir

    steps = Steps()
    workshop = Workshop(os.environ, cache_dir(os.environ), steps.note, references)

    def compare(image: LockedImage) -> Comparison:
        with steps.step(f"rebuild {image.folder}"):
            return compare_rebuild(image, workshop)

    return compare


def _places(only: list[str] | None) -> list[Place]:
    from nitrokit.gate.run import DEPLOYED

    names = {str(place): place for place in DEPLOYED}
    if unknown := [one for one in only or [] if one not in names]:
        raise UsageError("bad-place", "no such place", got=unknown[0], expected=", ".join(names), do="name one of these")
    return [names[one] for one in only] if only else list(DEPLOYED)


def _client(region: str | None) -> Callable[[str], Any]:
    """boto3's clients, each made once, when it is first needed. A throttled call is tried again."""

    @cache
    def client(service: str) -> Any:
        from botocore.config import Config

        return aws.client(service, region, Config(retries={"mode": "adaptive", "max_attempts": 5}))

    return client


def _format(name: str) -> str:
    from nitrokit.gate.formats import FORMATS

    if name not in FORMATS:
        raise UsageError("bad-format", "no such format", got=name, expected=", ".join(FORMATS), do="name one of these")
    return name


def _target(text: str) -> tuple[str, Path]:
    """FORMAT=FILE, or a file whose suffix tells the format."""
    from nitrokit.gate.formats import FORMATS, SUFFIXES

    name, equals, path = text.partition("=")
    if equals and name in FORMATS:
        return name, Path(path)
    suffix = Path(text).suffix
    if suffix not in SUFFIXES:
        raise UsageError(
            "bad-format",
            "the file's name does not tell a format",
            got=text,
            expected=f"{', '.join(SUFFIXES)}, or FORMAT=FILE",
            do="name the format before it, e.g. sarif=FILE",
        )
    return SUFFIXES[suffix], Path(text)


def _access(stacks: list[str] | None, region: str | None) -> dict[str, Any]:
    from nitrokit.gate.access import access_policy

    return access_policy(*(stacks or []), region=region or "*", partition=_partition(region))


def _partition(region: str | None) -> str:
    """Of the Region, named or the environment's; where there is none, AWS's commercial one."""
    import boto3
    from botocore.exceptions import BotoCoreError, UnknownRegionError

    named = region or os.environ.get("AWS_REGION")
    try:
        session = boto3.Session()
        named = named or session.region_name
        return str(session.get_partition_for_region(named)) if named else "aws"
    except UnknownRegionError as error:
        raise UsageError(
            "bad-region", "no such Region in any partition", got=named, expected="e.g. eu-west-1", do="correct --region or AWS_REGION"
        ) from error
    except BotoCoreError as error:  # a profile that is not there
        raise EnvironmentProblem("aws-client", "AWS cannot be asked", got=str(error), do="correct the profile (AWS_PROFILE)") from error
