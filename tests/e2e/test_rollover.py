"""A rollover end to end in the local cloud: v1 runs, v2 is locked beside it, the key allows both, the hosts are replaced one by one, v1 is retired; cut off at each stage and continued.

Somebody asks for answers all the time, as a load balancer does: one host after the other, and the other one where the first gives none.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import aws_cdk
import pytest
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_codepipeline_actions as actions
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template

from nitrokit.cdk.measurement_gate import MeasurementGate
from nitrokit.emulation.demo.actors import DataOwner, Parent, Proof
from nitrokit.emulation.demo.deployment import Cdk, DeployError
from nitrokit.emulation.local import LocalAws
from nitrokit.gate.access import access_policy

ROOT = Path(__file__).parents[2]
AGENT = "/opt/nitrokit/agent.pyz"


class _Clients:
    """Asks for a proof again and again. A request fails when neither host answers it."""

    def __init__(self, owner, parents, ciphertext, region):
        self.owner, self.parents, self.ciphertext, self.region = owner, parents, ciphertext, region
        self.answers, self.failed = [0, 0], []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        orders = itertools.cycle([(0, 1), (1, 0)])
        while not self._end.is_set():
            outcomes = []
            for number in next(orders):
                try:
                    outcome = Proof.attempt(self.owner, self.parents[number], self.ciphertext, self.region)
                except Exception as error:
                    outcomes.append(str(error)[:200])
                    continue
                outcomes.append(f"{outcome.outcome}: {outcome.detail[:200]}")
                if outcome.outcome == "allowed":
                    self.answers[number] += 1
                    break
            else:
                self.failed.append(outcomes)
            time.sleep(0.1)

    def stop(self):
        self._end.set()
        self._thread.join(timeout=200)


class _Project:
    """A platform team's folder: the image, its app, and the commands that they run."""

    def __init__(self, folder, local):
        self.folder, self.local = folder, local
        self.image = folder / "enclave_images" / "hello"
        shutil.copytree(ROOT / "enclave_images" / "hello", self.image)
        for name in ("app.py", "cdk.json"):
            shutil.copy(ROOT / "tests/e2e/rollover" / name, folder)
        self.root = folder / "root.der"
        self.root.write_bytes(local.root_der)
        self.reader = self._make_reader()
        self.environment = {**os.environ, **local._cloud.environment(self.reader)}

    def _make_reader(self):
        """Credentials that may do what `nitrokit gate --iam-policy` prints, and nothing else."""
        arn = self.local.create_role("gate")
        policy = json.dumps(access_policy("Rollover"))
        self.local.client("iam").put_role_policy(RoleName="gate", PolicyName="gate", PolicyDocument=policy)
        return self.local._cloud.identities.for_role(arn, "gate")

    def nitrokit(self, *arguments, kill_after=None):
        command = [sys.executable, "-m", "nitrokit.cli", *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            stdout, stderr = process.communicate(timeout=kill_after or 300)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
        assert "Traceback" not in stderr, stderr
        return process.returncode, stdout, stderr

    def gate(self, *arguments):
        code, stdout, stderr = self.nitrokit("gate", *arguments, "--root", self.root, "--json")
        assert stdout, stderr
        report = json.loads(stdout)
        return code, {(one["place"], one["outcome"], one["rule"]) for one in report["comparisons"]}, report

    def change(self):
        """A new version of the app."""
        source = self.image / "app" / "main.py"
        source.write_text(source.read_text() + "# the second version\n")


class _Pipeline:
    """MeasurementGate's steps over the project: the commands of its CodeBuild projects, as synthesised. Its gate is told the emulated root, as no real one needs to be."""

    def __init__(self, project, environment, context):
        self.folder, self.environment = project.folder, environment
        description = json.loads((project.folder / "cdk.json").read_text())
        (project.folder / "cdk.json").write_text(json.dumps({**description, "context": {**description["context"], **context}}))
        (project.folder / "node_modules").symlink_to(ROOT / "node_modules")
        self.bin = project.folder / "bin"
        self.bin.mkdir()
        shim = self.bin / "nitrokit"
        run = f'{sys.executable} -m nitrokit.cli "$@"'
        shim.write_text(f'#!/bin/sh\n[ "$1" = gate ] && exec {run} --root {project.root}\nexec {run}\n')
        shim.chmod(0o755)
        stack = aws_cdk.Stack(aws_cdk.App(), "Pipeline", env=aws_cdk.Environment(account="123456789012", region="us-east-1"))
        source = codepipeline.Artifact("Source")
        pipeline = codepipeline.Pipeline(stack, "Pipeline", pipeline_type=codepipeline.PipelineType.V2)
        fetch = actions.S3SourceAction(action_name="Source", bucket=s3.Bucket(stack, "Source"), bucket_key="s.zip", output=source)
        pipeline.add_stage(stage_name="Source", actions=[fetch])
        deploy = actions.ManualApprovalAction(action_name="Deploy")
        MeasurementGate(stack, "Gate").add_stages(pipeline, source, stack_name="Rollover", deploy=[deploy], retire=True)
        found = Template.from_stack(stack).find_resources("AWS::CodeBuild::Project").values()
        self.commands = {
            one["Properties"]["Description"].rsplit(" ", 1)[-1]: json.loads(one["Properties"]["Source"]["BuildSpec"])["phases"]["build"]["commands"]
            for one in found
        }  # fmt: skip

    def run(self, step, environment=None):
        """As CodeBuild does: one command after the other, up to the first that fails. Returns (exit code, what was said)."""
        told = {**(environment or self.environment), "CDK_VALIDATION": "false"}
        told["PATH"] = os.pathsep.join([str(self.bin), told["PATH"]])
        for command in self.commands[step]:
            done = subprocess.run(
                ["sh", "-c", command], cwd=self.folder, env=told, capture_output=True, text=True, check=False, timeout=400
            )
            if done.returncode:
                break
        return done.returncode, done.stdout + done.stderr


def _reasons(report):
    return [(one["subject"], one["rule"], one["reason"]) for one in report["comparisons"] if one["outcome"] != "agrees"]


def _deploy_interrupted(cdk, context, when):
    """``cdk deploy``, killed as soon as ``when`` holds; what CloudFormation was told goes on without it."""

    def kill():
        while not when():
            time.sleep(0.05)
        found = subprocess.run(
            ["pgrep", "-f", "--", f"--output {cdk.work_dir / 'cdk.out'}"], capture_output=True, text=True, check=False
        ).stdout
        for pid in found.split():
            os.kill(int(pid), 9)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(DeployError):
        cdk.deploy(context)
    killer.join(timeout=60)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_v1_to_v2_without_a_failed_request(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join([str(ROOT / "node_modules/.bin"), str(Path(sys.executable).parent), os.environ["PATH"]]))
    work = Path("/tmp") / f"nkr{os.getpid()}"
    work.mkdir()
    local = LocalAws(work, environment=os.environ, runner="process", note=lambda _: None)
    try:
        _rollover(tmp_path, work, local)
    except BaseException:
        print(local.diagnosis()[-4000:])
        raise
    finally:
        local.close()
        shutil.rmtree(work, ignore_errors=True)


def _rollover(tmp_path, work, local):
    project = _Project(tmp_path / "project", local)
    code, _, stderr = project.nitrokit("lock", project.image, "--measurements-only")
    assert code == 0, stderr
    first = json.loads((project.image / "measurements.json").read_text())["Measurements"]
    owner_arn = local.create_role("owner")
    cdk = Cdk(project.folder, work, local.environment(), lambda _: None)
    cdk.bootstrap(local.account, local.region)
    context = {"image": str(project.image), "owner": owner_arn}

    # v1 runs.
    outputs = cdk.deploy(context)
    code, found, report = project.gate(
        "--rebuild", "--templates", work / "cdk.out", "--stack", "Rollover", "--only", "key", "--only", "enclave"
    )
    assert (code, {outcome for _, outcome, _ in found}) == (0, {"agrees"}), _reasons(report)
    owner = DataOwner(local.client("kms", role_arn=owner_arn), outputs["KeyArn"])
    ciphertext = owner.encrypt()
    parents = [Parent(local.client("ssm"), outputs[f"Instance{number}"], "hello") for number in (1, 2)]
    clients = _Clients(owner, parents, ciphertext, local.region)

    # The source changes: drift, until it is locked. `nitrokit lock` is killed once; the lock is as before.
    before = (project.image / "measurements.json").read_bytes()
    project.change()
    code, found, _ = project.gate("--rebuild")
    assert (code, ("rebuild", "drift", "rebuild-differs") in found) == (1, True)
    assert project.nitrokit("lock", project.image, "--measurements-only", "--keep-old-until", "2027-06-30", kill_after=1.0)[0] == -9
    assert (project.image / "measurements.json").read_bytes() == before
    assert project.nitrokit("lock", project.image, "--measurements-only", "--keep-old-until", "2027-06-30")[0] == 0
    second = json.loads((project.image / "measurements.json").read_text())["Measurements"]
    code, found, report = project.gate("--rebuild", "--stack", "Rollover")
    assert code == 0, _reasons(report)
    assert {
        ("rebuild", "agrees", "agrees"),
        ("key", "planned", "planned-rollover"),
        ("host", "planned", "planned-rollover"),
        ("enclave", "planned", "planned-rollover"),
    } <= found

    # The pipeline's last step retires nothing while an enclave runs what retires.
    pipeline = _Pipeline(project, cdk.environment, context)
    code, told = pipeline.run("Retire")
    assert (code, "a planned rollover is under way" in told) == (1, True), told
    assert "Retiring" in (project.image / "measurements.json").read_text()

    # Key and hosts follow, one by one. `cdk deploy` is killed in the middle of it, and run again.
    stack = local.client("cloudformation")

    def updating():
        return stack.describe_stacks(StackName="Rollover")["Stacks"][0]["StackStatus"] == "UPDATE_IN_PROGRESS"

    _deploy_interrupted(cdk, context, updating)
    with pytest.raises(DeployError):
        cdk.deploy(context)  # what was told goes on without the CLI, and takes no other change meanwhile
    stack.get_waiter("stack_update_complete").wait(StackName="Rollover", WaiterConfig={"Delay": 1, "MaxAttempts": 200})
    cdk.deploy(context)
    code, found, report = project.gate("--stack", "Rollover")
    assert code == 0, _reasons(report)
    assert {("key", "planned", "planned-rollover"), ("host", "agrees", "agrees"), ("enclave", "agrees", "agrees")} <= found
    assert not [one for one in found if one[0] == "enclave" and one[1] != "agrees"]
    code, told = pipeline.run("Attest", project.environment)
    assert code == 0, told

    # v1 is retired; the key allows v2 alone.
    assert project.nitrokit("lock", project.image, "--retire-all")[0] == 0
    code, found, _ = project.gate("--stack", "Rollover", "--only", "key")
    assert (code, ("key", "drift", "unknown-set") in found) == (1, True), "what is retired in the lock and still in the key is drift"
    manifest = work / "cdk.out" / "manifest.json"
    synthesised = manifest.stat().st_mtime_ns
    # This time as soon as it is synthesised, before CloudFormation knows of it.
    _deploy_interrupted(cdk, context, lambda: manifest.exists() and manifest.stat().st_mtime_ns > synthesised)
    code, told = pipeline.run("Retire")
    assert code == 0, told
    clients.stop()
    code, found, report = project.gate("--rebuild", "--templates", project.folder / "cdk.out", "--stack", "Rollover")
    assert (code, {outcome for _, outcome, _ in found}) == (0, {"agrees"}), _reasons(report)
    assert clients.failed == []
    assert min(clients.answers) > 5, clients.answers
    policy = local._cloud.client("kms", project.reader).get_key_policy(KeyId=outputs["KeyArn"], PolicyName="default")["Policy"]
    assert second["PCR0"] in policy and first["PCR0"] not in policy
