"""``nitrokit gate`` as a user meets it: exit codes, files, wrong words."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nitrokit.gate.access import access_policy
from nitrokit.gate.report import Comparison, GateReport, Place

from .conftest import NEW, NOW, OLD, locked

ROOT = Path(__file__).parents[3]


def run(*arguments, cwd=ROOT, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", "gate", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **environment}, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "enclave_images" / "hello"
    folder.mkdir(parents=True)
    (folder / "enclave.toml").write_text('[enclave]\nname = "hello"\narch = "x86_64"\n[eif]\npath = "x.eif"\n')
    (folder / "measurements.json").write_text(locked().values.to_json())
    (folder / "image.lock.json").write_text('{"sections": {}}')
    return folder


def _template(folder, measurements):
    value = json.dumps([{f"PCR{index}": value.hex() for index, value in measurements.pcrs().items()}])
    resources = {"F": {"Type": "AWS::Lambda::Function", "Properties": {"Environment": {"Variables": {"MEASUREMENTS": value}}}}}
    (folder / "S.template.json").write_text(json.dumps({"Resources": resources}))
    return folder


def test_agreement_drift_and_absence_have_their_exit_codes_and_files(image, tmp_path):
    same = run("--templates", _template(tmp_path, NEW), cwd=tmp_path)
    assert (same.returncode, same.stdout.splitlines()[0]) == (0, "PASS  2 agrees")
    summary = tmp_path / "summary"
    drift = run(
        image, "--templates", _template(tmp_path, OLD), "--output", tmp_path / "o/gate.sarif", "--output", tmp_path / "gate.xml",
        "--output", f"markdown={summary}", "--format", "github", cwd=tmp_path,
    )  # fmt: skip
    assert (drift.returncode, drift.stdout.startswith("::error file=")) == (1, True), drift.stderr
    assert json.loads((tmp_path / "o/gate.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "unknown-set"
    assert (tmp_path / "gate.xml").read_text().startswith("<?xml")
    assert summary.read_text().startswith("### nitrokit gate: FAIL")
    absent = run(image, "--templates", tmp_path / "nowhere", "--json")
    assert (absent.returncode, json.loads(absent.stdout)["verdict"]) == (3, "UNREACHABLE")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "usage/nothing-asked"), (["docs", "--templates", "x"], 2, "usage/no-image"), (["--templates", "x", "--format", "x"], 2, "usage/bad-format"),
        (["--templates", "x", "--output", "x.pdf"], 2, "usage/bad-format"), (["--templates", "x", "--output", "json=/proc/x/y"], 2, "usage/unwritable-file"),
        (["--stack", "x", "--only", "moon"], 2, "usage/bad-place"), (["--templates", "x", "--only", "key"], 2, "usage/nothing-to-narrow"),
    ],
)  # fmt: skip
def test_wrong_words_are_told(arguments, code, words):
    done = run(*arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_without_locks_or_without_aws_it_says_so(tmp_path, image):
    assert "usage/no-image" in run("--templates", "x", cwd=tmp_path.parent).stderr
    nowhere = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_DEFAULT_REGION": "", "AWS_REGION": ""}
    done = run(image, "--key", "alias/x", **nowhere)
    assert (done.returncode, "environment/aws-client" in done.stderr, "--region" in done.stderr) == (3, True, True), done.stderr
    no_profile = run(image, "--key", "alias/x", "--region", "us-east-1", **nowhere, AWS_PROFILE="gone")
    assert (no_profile.returncode, "environment/aws-client" in no_profile.stderr, "AWS_PROFILE" in no_profile.stderr) == (3, True, True)
    unanswered = run(image, "--key", "alias/x", "--stack", "s", "--region", "us-east-1", "--json", **nowhere)
    assert unanswered.returncode == 3
    assert {one["rule"] for one in json.loads(unanswered.stdout)["comparisons"]} == {"agrees", "unreachable"}


@pytest.mark.parametrize(
    ("found", "wait", "verdict", "runs"),
    [
        (["unreachable", "unreachable", "agrees"], 600, "PASS", 3), (["unreachable", "grant", "agrees"], 600, "FAIL", 2), (["grant"], 600, "FAIL", 1), (["unreachable"], 0, "UNREACHABLE", 1),
        (["agrees"], 600, "PASS", 1),
    ],
)  # fmt: skip
def test_what_is_not_reachable_is_waited_for_and_drift_is_not(monkeypatch, found, wait, verdict, runs):
    from nitrokit.cli import gate as command

    left = list(found)
    plan: Any = None

    def run_once(plan):
        return GateReport(NOW, {}, [Comparison(Place.KEY, "key", left.pop(0), "because")])

    monkeypatch.setattr("nitrokit.gate.run.run_gate", run_once)
    monkeypatch.setattr(command, "_AGAIN", 0.0)
    assert command._compare(plan, wait, settled=False).verdict == verdict
    assert len(found) - len(left) == runs


def test_a_torn_lock_is_named_one_folder_counts_once_and_two_images_of_one_name_are_refused(image, tmp_path):
    template = _template(tmp_path, NEW)
    assert run(image, image.parent, "--templates", template).stdout.startswith("PASS  2 agrees")
    other = tmp_path / "enclave_images" / "other"
    shutil.copytree(image, other)
    assert "usage/same-name" in run("--templates", template, cwd=tmp_path).stderr
    (other / "measurements.json").write_text("{")
    torn = run(other, "--templates", template)
    assert (torn.returncode, f"{other}/measurements.json: measurements are not JSON" in torn.stderr) == (2, True), torn.stderr


def test_the_printed_policy_names_real_actions_and_only_reads():
    printed = json.loads(run("--iam-policy", "--stack", "Hello", "--region", "eu-west-1").stdout)
    assert printed == access_policy("Hello", region="eu-west-1")
    both = run("--iam-policy", "--stack", "Hello", "--stack", "World").stdout
    assert ("stack/Hello/*" in both, "stack/World/*" in both, "stack/*/*" in both) == (True, True, False), "two stacks are two, and not all"
    import botocore.loaders

    loader = botocore.loaders.Loader()
    for statement in printed["Statement"]:
        for action in statement["Action"]:
            service, _, name = action.partition(":")
            assert name in loader.load_service_model(service, "service-2")["operations"], action
            assert name.startswith(("Describe", "Get", "List")) or action == "ssm:SendCommand"


@pytest.mark.parametrize(("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
def test_the_printed_policy_is_of_the_regions_partition(region, partition):
    printed = json.loads(run("--iam-policy", "--region", region).stdout)
    assert printed == access_policy(region=region, partition=partition)
    assert "bad-region" in run("--iam-policy", "--region", "nowhere").stderr


def test_the_gate_needs_nothing_of_what_lambdas_alone_have():
    code = "import sys, nitrokit.gate.deployed, nitrokit.gate.templates; sys.exit(any(name.startswith(('aws_lambda_powertools', 'aws_cdk')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
