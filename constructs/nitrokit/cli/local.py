"""``nitrokit local``: the whole system on this machine, without an AWS account."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.output import JsonOption, Steps, printable, result, talk
from nitrokit.errors import NitrokitError

if TYPE_CHECKING:
    from nitrokit.emulation.local import LocalAws
    from nitrokit.image.kernel import KernelBlobs

app = typer.Typer(help="The whole system on this machine, without an AWS account.", no_args_is_help=True)


class RunnerChoice(StrEnum):
    """How enclaves boot: QEMU's nitro-enclave machine where there is one, else a sandboxed process."""

    AUTO = "auto"
    QEMU = "qemu"
    PROCESS = "process"


AppOption = Annotated[Path, typer.Option("--app", help="The CDK app's folder (holds cdk.json).")]
RunnerOption = Annotated[RunnerChoice, typer.Option("--runner", help="How enclaves boot.")]
KeepOption = Annotated[Path | None, typer.Option("--keep", help="Leave logs, templates and images in this folder (default: all removed).")]


@app.command()
def demo(
    image: Annotated[Path | None, typer.Option("--image", help="The image folder; default: enclave_images/hello of the app.")] = None,
    app_dir: AppOption = Path(),
    runner: RunnerOption = RunnerChoice.AUTO,
    keep: KeepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove the main job, from source to a decrypted secret. Build, deploy, prove, check, counter-prove; exit 0 only if every expectation held."""
    from nitrokit.cli.demo_report import print_report
    from nitrokit.emulation.demo.deployment import Cdk
    from nitrokit.emulation.demo.images import prepare, require_image
    from nitrokit.emulation.demo.report import Report
    from nitrokit.emulation.demo.story import Story

    app_dir = Path(os.path.realpath(app_dir))
    folder = Path(os.path.realpath(image or app_dir / "enclave_images" / "hello"))
    require_image(folder)
    steps, report, started = Steps(), Report(), time.monotonic()
    with _work_folder(keep) as work, _local_aws(work, runner, steps) as local:
        report.runner = local.runner_sentence
        kernel, cache = _kernel(steps)
        cdk = Cdk(app_dir, work, local.environment(), steps.note)
        with steps.step("build: the image twice, and one with a changed byte; meanwhile cdk bootstrap"), ThreadPoolExecutor(1) as pool:
            bootstrapped = pool.submit(cdk.bootstrap, local.account, local.region)
            images = prepare(folder, work / "images", kernel, cache, report, steps.note)
            bootstrapped.result()
        try:
            Story(local, cdk, images, work, report, steps).tell()
        finally:
            # Read by whoever asked to keep the folder; removed with it otherwise.
            (work / "diagnosis.log").write_text(local.diagnosis())
        report.kms_decisions = local.kms_decisions()
    report.seconds = {**steps.seconds, "total": time.monotonic() - started}
    result(report.as_dict(), as_json=as_json, human=lambda: print_report(report))
    if not report.ok:
        unmet = [expectation for expectation in report.expectations if not expectation.held]
        raise DemoError(
            "unmet",
            f"{len(unmet)} of {len(report.expectations)} expectations did not hold",
            got="; ".join(f"{one.actor}: {one.what}: {one.got} {one.detail}".strip() for one in unmet),
            expected="; ".join(one.expected for one in unmet),
            do="run again with --keep FOLDER and read the logs there",
        )


@app.command()
def up(runner: RunnerOption = RunnerChoice.AUTO, keep: KeepOption = None, as_json: JsonOption = False) -> None:
    """Start the local AWS, and leave it running until Ctrl-C. Prints the environment that AWS clients and cdk need."""
    steps = Steps()
    with _work_folder(keep) as work, _local_aws(work, runner, steps) as local:
        environment = local.environment()
        root = work / "emulated-root.der"
        root.write_bytes(local.root_der)
        value = {
            "endpoint": environment["AWS_ENDPOINT_URL"],
            "environment": environment,
            "trust_anchor": str(root),
            "runner": local.runner_sentence,
        }

        def human() -> None:
            for name, text in environment.items():
                print(f"export {name}='{text}'")
            print(f"# cdk: -c nitrokit:trustAnchor={root} -c nitrokit:lambdaRuntime={local.lambda_runtime}")

        result(value, as_json=as_json, human=human)
        steps.say("running; Ctrl-C stops and removes everything")
        while True:
            time.sleep(3600)


@app.command()
def run(
    image: Annotated[Path, typer.Argument(help="The image folder (holds enclave.toml).")],
    runner: RunnerOption = RunnerChoice.AUTO,
    keep: KeepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build an image and run it by itself. Prints its ingress on loopback, a KMS key that it alone opens and credentials for both sides; then what it prints, until it ends or Ctrl-C."""
    from nitrokit.emulation.lone import LoneEnclave
    from nitrokit.image.build import build_image, read_manifest
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import kernel_for
    from nitrokit.image.signing import here

    manifest = read_manifest(image)
    steps, cache = Steps(), cache_dir(os.environ)
    with _work_folder(keep) as work:
        with steps.step(f"build {image}"):
            kernel = kernel_for(manifest, os.environ, cache, steps.note)
            built = build_image(
                image, kernel=kernel, output=work / f"{manifest.name}.eif", cache=cache, progress=steps.note, sign_with=here()
            )
        with _local_aws(work, runner, steps) as local:
            with steps.step("enclave: start"):
                enclave = LoneEnclave(local, work / "e", built.eif, manifest, built.measurements, talk)
            try:
                value = {
                    "enclave": enclave.enclave_id,
                    "key": enclave.key_arn,
                    "ingress": {port: f"{host}:{number}" for port, (host, number) in enclave.ingress.items()},
                    "owner": local.environment(enclave.owner_role),
                    "credentials": _app_credentials(local.environment(enclave.host_role)),
                }
                result(value, as_json=as_json, human=lambda: _print_run(value))
                for line in enclave.lines():
                    talk(printable(line))
                steps.say("the enclave has ended")
            finally:
                enclave.close()


def _app_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """As a parent hands its role's credentials to the app."""
    return {name: environment[f"AWS_{name.upper()}"] for name in ("access_key_id", "secret_access_key", "session_token")}


def _print_run(value: Mapping[str, Any]) -> None:
    for name, text in value["owner"].items():
        print(f"export {name}='{text}'")
    print(f"# the data owner's; the key: {value['key']}\n# credentials for the app, from its parent: {json.dumps(value['credentials'])}")
    for port, address in value["ingress"].items():
        print(f"# the app's port {port}: {address}")


class DemoError(NitrokitError):
    """An expectation of the demo did not hold."""

    area = "demo"


@contextmanager
def _work_folder(keep: Path | None) -> Iterator[Path]:
    """A private folder that is removed at the end, whatever happens; or the one that the user wants to keep."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    # Short: unix socket paths below it must fit in 108 bytes.
    work = Path(tempfile.mkdtemp(prefix="nk-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _local_aws(work: Path, runner: RunnerChoice, steps: Steps) -> Iterator[LocalAws]:
    from nitrokit.emulation.local import LocalAws

    with steps.step("local AWS: start"):
        local = LocalAws(work, environment=os.environ, runner=runner.value, note=steps.note)
    steps.say(f"  {local.runner_sentence}")
    try:
        yield local
    finally:
        with steps.step("local AWS: stop, remove"):
            local.close()


def _kernel(steps: Steps) -> tuple[KernelBlobs, Path]:
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import find_kernel

    cache = cache_dir(os.environ)
    with steps.step("kernel"):
        kernel = find_kernel(os.environ, cache, steps.note)
    steps.say(f"  {kernel.source}")
    return kernel, cache
