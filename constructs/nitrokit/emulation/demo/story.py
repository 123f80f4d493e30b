"""The main job, told step by step: each step is an actor, what it does, and what must come of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from nitrokit.core.measurements import Measurements
from nitrokit.emulation.demo.actors import AGENT, DataOwner, KeyWatch, Monitor, Parent, Proof
from nitrokit.emulation.demo.deployment import Cdk, DeployError
from nitrokit.emulation.demo.images import Images
from nitrokit.emulation.demo.report import Report
from nitrokit.emulation.local import LocalAws

OWNER_ROLE = "nitrokit-data-owner"


class Progress(Protocol):
    """What the story needs of a progress display."""

    def step(self, title: str) -> AbstractContextManager[None]: ...
    def note(self, message: str) -> None: ...


class Story:
    """One run of the demo on a started local AWS. ``report`` receives every expectation."""

    def __init__(self, local: LocalAws, cdk: Cdk, images: Images, work: Path, report: Report, progress: Progress) -> None:
        self.local = local
        self.images = images
        self.cdk = cdk
        self.work = work
        self.report = report
        self.progress = progress

    def tell(self) -> None:
        """Run every step. Raises only where a step could not be carried out at all; an unmet expectation goes into the report."""
        with self.progress.step("deploy: cdk deploy, the host's bootstrap through SSM"):
            if not self._deploy():
                return
        with self.progress.step("proof: the enclave opens the data owner's secret, the parent cannot"):
            self._prove()
        with self.progress.step("check: the attestation Lambda"):
            self._check_running()
        with self.progress.step("counter-proof: one byte of the app changes"):
            self._counter_proof()
        with self.progress.step("counter-proof: a debug-mode enclave"):
            self._debug()

    def _deploy(self) -> bool:
        owner_arn = self.local.create_role(OWNER_ROLE)
        trust = self.work / "emulated-root.der"
        trust.write_bytes(self.local.root_der)
        context = {
            "nitrokit:image": str(self.images.folder),
            "nitrokit:trustAnchor": str(trust),
            "nitrokit:lambdaRuntime": self.local.lambda_runtime,
            "nitrokit:dataOwner": owner_arn,
        }
        try:
            outputs = self.cdk.deploy(context)
        except DeployError as error:
            self.report.expect("platform team", "cdk deploy of app.py", expected="healthy", got="failed", detail=str(error))
            return False
        self.report.stack = outputs
        self.report.expect("platform team", "cdk deploy of app.py; the host agent boots the enclave", expected="healthy", got="healthy")
        self.parent = Parent(self.local.client("ssm"), outputs["InstanceId"], self.images.name)
        self.owner = DataOwner(self.local.client("kms", role_arn=owner_arn), outputs["KeyArn"])
        self.monitor = Monitor(self.local.client("lambda"), outputs["MonitorFunctionName"])
        return True

    def _prove(self) -> None:
        self.ciphertext = self.owner.encrypt()
        self._attempt("enclave", "Decrypt with its attestation document; answers a challenge", expected="allowed")
        tried = self.parent.decrypt(self.ciphertext, self.local.region)
        got = "denied" if tried.exit_code and "AccessDenied" in tried.stderr else "allowed" if tried.exit_code == 0 else "failed"
        self.report.expect(
            "parent instance",
            "the same Decrypt with the instance's credentials",
            expected="denied",
            got=got,
            detail=tried.stderr.strip()[-300:],
        )
        read = self.parent.run(f"python3 {AGENT} logs --enclave {shlex.quote(self.images.name)}")
        got = (
            "failed"
            if read.exit_code or "answered a challenge" not in read.stdout
            else "the secret"
            if self.owner.is_told(read.stdout)
            else "no secret"
        )
        self.report.expect(
            "parent instance",
            "reads what the app prints, as enclave.toml allows",
            expected="no secret",
            got=got,
            detail=_last_line(read.stderr),
        )

    def _attempt(self, actor: str, what: str, *, expected: str) -> None:
        proof = Proof.attempt(self.owner, self.parent, self.ciphertext, self.local.region)
        self.report.expect(actor, what, expected=expected, got=proof.outcome, detail=proof.detail)

    def _check_running(self) -> None:
        verdict = self.monitor.check()
        self.report.expect(
            "attestation Lambda",
            "fresh nonce, verify, appraise",
            expected="PASS",
            got=str(verdict.get("verdict")),
            detail=_differing(verdict),
        )

        watch = KeyWatch(self.local.client("lambda"))
        self.report.expect("key canary", "Decrypt by IAM permission alone, without attestation", expected="DENIED", got=watch.ask("Canary"))
        self.report.expect(
            "key guard", "compares the deployed key policy with the synthesised one", expected="PASS", got=watch.ask("Guard")
        )

    def _counter_proof(self) -> None:
        self._upload(self.images.tampered.eif)
        refused = self.parent.run(f"python3 {AGENT} verify --enclave {shlex.quote(self.images.name)} --eif {self._host_path}")
        moved = _moved(self.images.good.measurements, self.images.tampered.measurements)
        named = all(f"PCR{index}" in refused.stderr + refused.stdout for index in moved)
        got = "refused" if refused.exit_code and named else "accepted" if refused.exit_code == 0 else "failed"
        self.report.expect(
            "host agent", "compares the changed image with the lock", expected="refused", got=got, detail=_last_line(refused.stderr)
        )
        self._launch(self._host_path, debug=False)
        self._attempt("changed enclave", "Decrypt with its attestation document", expected="denied")
        verdict = self.monitor.check()
        got = str(verdict.get("verdict")) + "".join(f" PCR{difference['pcr']}" for difference in verdict.get("differences", []))
        expected = "FAIL" + "".join(f" PCR{index}" for index in moved)
        self.report.expect("attestation Lambda", "checks the changed enclave", expected=expected, got=got, detail=_differing(verdict))

    def _debug(self) -> None:
        self._launch(f"/var/lib/nitrokit/{self.images.name}/images/*.eif", debug=True)
        self._attempt("debug-mode enclave", "Decrypt with its attestation document (PCR0–2 are zero)", expected="denied")

    @property
    def _host_path(self) -> str:
        return f"/var/lib/nitrokit/{self.images.name}/tampered.eif"

    def _upload(self, eif: Path) -> None:
        """Somebody with power over the parent puts another image there."""
        bucket = self.local.bootstrap_bucket
        self.local.client("s3").upload_file(str(eif), bucket, "tampered.eif")
        copied = self.parent.run(f"aws s3 cp --only-show-errors s3://{bucket}/tampered.eif {self._host_path}")
        if copied.exit_code:
            raise DeployError("upload", "could not put the changed image on the parent", got=copied.stderr)

    def _launch(self, path: str, *, debug: bool) -> None:
        """Run an image past the agent, as root on the parent can."""
        size = -(-self.images.tampered.eif.stat().st_size // 2**20) * 4
        flags = " --debug-mode" if debug else ""
        ran = self.parent.run(
            "set -e\n"
            # The unit would start the right enclave again; root on the parent can stop it, of course.
            f"systemctl stop nitrokit-enclave-{self.images.name}\n"
            "nitro-cli terminate-enclave --all\n"
            f"nitro-cli run-enclave --eif-path {path} --cpu-count 2 --memory {size} --enclave-cid {self._cid} --enclave-name {self.images.name}{flags}\n"
            f"python3 {AGENT} wait --enclave {shlex.quote(self.images.name)}"
        )
        if ran.exit_code:
            raise DeployError("launch", "could not launch an image past the agent", got=ran.stderr[-800:])

    @property
    def _cid(self) -> int:
        return 16


def _moved(locked: Measurements, other: Measurements) -> list[int]:
    return [difference.index for difference in locked.differences(other)]


def _differing(verdict: Mapping[str, Any]) -> str:
    return "; ".join(
        f"PCR{one['pcr']} expected {str(one['expected'])[:12]}… got {str(one['got'])[:12]}…" for one in verdict.get("differences", [])
    )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
