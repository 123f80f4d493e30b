"""The ready workflow files: valid by their services' schemas, pinned, without needless rights, and their steps really run, in a clone of this project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
GITHUB, GITLAB = ROOT / "docs/workflows/github.yml", ROOT / "docs/workflows/gitlab.yml"
BLOBS = os.environ.get("NITROKIT_BLOBS", "")
NEEDS_BLOBS = pytest.mark.skipif(not (Path(BLOBS) / "bzImage").is_file(), reason="no kernel of the lock: NITROKIT_BLOBS")
NEEDS_NODE = pytest.mark.skipif(not (ROOT / "node_modules").is_dir(), reason="no node_modules: make setup")


@pytest.mark.parametrize(("kind", "path"), [("vendor.github-workflows", GITHUB), ("vendor.gitlab-ci", GITLAB)])
def test_they_are_valid_by_the_published_schema(kind, path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", kind, str(path)]
    if kind.endswith("gitlab-ci"):
        command += ["--data-transform", "gitlab-ci"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_and_rights_are_few():
    text = GITHUB.read_text()
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) and re.fullmatch(r" # v[\d.]+", version) for name, version in uses), uses
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"]["contents"] == "read", name
        for step in job["steps"]:
            assert "${{ github.event" not in step.get("run", ""), "no text of a pull request becomes a script"
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False
    assert len({version for name, version in uses if "checkout" in name}) == 1


def _steps():
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    return {(name, step.get("name")): step["run"] for name, job in jobs.items() for step in job["steps"] if "run" in step}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with the working tree's files, and what the steps need of a runner."""
    folder = tmp_path_factory.mktemp("project") / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in listed:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "node_modules").symlink_to(ROOT / "node_modules")
    return folder


def _run(clone, script, **environment):
    path = os.pathsep.join([str(ROOT / "node_modules/.bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=clone, capture_output=True, text=True, check=False, timeout=500,
        env={**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(clone / "summary.md"), "AWS_EC2_METADATA_DISABLED": "true", "CDK_VALIDATION": "false",
             "AWS_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", **environment},
    )  # fmt: skip
    return done


def _gitlab(job):
    """The script of a job, without what brings tools."""
    described = yaml.safe_load(GITLAB.read_text())[job]
    lines = [*described.get("before_script", ()), *described.get("script", ()), *described.get("after_script", ())]
    return [line for line in lines if not line.startswith(("apt-get ", "python -m pip ", "npm ci "))]


def test_what_is_deployed_is_what_passed_and_where_images_are_built_the_compiler_is_the_recipes():
    jobs, gitlab = (yaml.safe_load(path.read_text()) for path in (GITHUB, GITLAB))
    compiler = json.loads((ROOT / "enclave_images/kernel/recipe.json").read_text())["bzimage"]["compiler"]
    assert "Debian 12." in compiler, "bookworm's: name another image for another recipe"
    assert {jobs["jobs"][name]["container"] for name in ("build", "gate")} == {gitlab["default"]["image"]} == {"python:3.13-bookworm"}
    for deploy in (_steps()["deploy", "Deploy"], *_gitlab("deploy")):
        assert deploy == "npx cdk deploy --app cdk.out --all --require-approval never"
    assert "cdk.out" in gitlab["gate"]["artifacts"]["paths"]
    artifacts = {step["with"].get("name"): step["with"]["path"] for step in jobs["jobs"]["gate"]["steps"] if "path" in step.get("with", {})}
    assert artifacts["assembly"] == "cdk.out"


@NEEDS_BLOBS
@NEEDS_NODE
def test_the_steps_before_a_deployment_run_and_stop_at_drift(clone):
    steps = _steps()
    build = steps["build", "Build every image and compare it with its lock"]
    for done in (
        _run(clone, build.replace("${{ matrix.builder }}", "first")),
        *(_run(clone, line, BUILDER="second") for line in _gitlab(".build")),
    ):
        assert done.returncode == 0, done.stderr
    assert _run(clone, steps["gate", "Two hosts built the same bytes"]).returncode == 0
    done = _run(clone, steps["gate", "Synthesise"])
    assert done.returncode == 0, done.stderr
    done = _run(clone, steps["gate", "Gate"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "summary.md").read_text().startswith("### nitrokit gate: PASS")
    assert (clone / "nitrokit.sarif").is_file()
    compared, synthesised, gated = _gitlab("gate")
    assert (_run(clone, compared).returncode, synthesised) == (0, steps["gate", "Synthesise"])
    done = _run(clone, gated)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "gate.xml").is_file()
    assert (clone / "gate.md").read_text() == (clone / "summary.md").read_text()
    (clone / "enclave_images/hello/app/main.py").write_text((clone / "enclave_images/hello/app/main.py").read_text() + "#\n")
    drift = _run(clone, steps["gate", "Gate"])
    assert (drift.returncode, "::error file=enclave_images/hello/measurements.json" in drift.stdout) == (1, True)
    assert "app/main.py" in drift.stdout, "the commit that locked it tells the file"
    assert _run(clone, build.replace("${{ matrix.builder }}", "second")).returncode == 1
    (clone / "eifs-second.sha256").write_text("0  ./hello.eif\n")
    assert _run(clone, steps["gate", "Two hosts built the same bytes"]).returncode == 1


def test_what_is_deployed_and_not_reachable_fails_the_step_and_is_still_reported(clone):
    steps = _steps()
    closed = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_MAX_ATTEMPTS": "1"}
    done = _run(
        clone,
        steps["deployed", "Gate what is deployed"],
        STACK="Nowhere",
        **closed,
    )
    assert (done.returncode, "::error" in done.stdout) == (3, True), done.stderr
    assert _run(clone, steps["deployed", "Attestation report"]).returncode == 0
    page = clone / "attestation-report.html"
    assert "UNREACHABLE" in page.read_text()
    for name in ("attestation-report.html", "gate.json"):
        (clone / name).unlink()
    gated, reported = _gitlab("deployed")
    assert _run(clone, reported).returncode == 0, "a job that failed before has nothing to report"
    assert not page.exists()
    assert _run(clone, gated, STACK="Nowhere", **closed).returncode == 3
    assert _run(clone, reported).returncode == 0
    assert "UNREACHABLE" in page.read_text()


def test_gitlabs_token_lies_where_boto3_and_the_cdk_look_for_it_and_nobody_else_reads_it(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    script = "\n".join(
        [*_gitlab(".aws"), 'stat -c %a "$AWS_WEB_IDENTITY_TOKEN_FILE"; cat "$AWS_WEB_IDENTITY_TOKEN_FILE"; echo " $AWS_ROLE_ARN"']
    )
    done = _run(project, script, AWS_TOKEN="a%sb", CI_PROJECT_DIR=str(project), ROLE="arn:aws:iam::123456789012:role/gate")
    assert done.stdout == "600\na%sb arn:aws:iam::123456789012:role/gate\n", done.stderr
