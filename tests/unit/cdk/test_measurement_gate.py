"""MeasurementGate: what its pipelines consist of, and that their commands really run and really stop."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_codepipeline_actions as actions
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import pipelines
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.await_attestation import AwaitAttestation
from nitrokit.cdk.measurement_gate import INSTALL, MeasurementGate

ROOT = Path(__file__).parents[3]
CONTEXT = json.loads((ROOT / "cdk.json").read_text())["context"]
BLOBS = Path(os.environ.get("NITROKIT_BLOBS", "/nowhere"))


def _app():
    return cdk.App(context=CONTEXT)


def _plain_stack(attest=lambda stack: None):
    """CodePipeline with stages of its own."""
    stack = cdk.Stack(_app(), "Plain", env=cdk.Environment(account="123456789012", region="eu-central-1"))
    bucket = s3.Bucket(stack, "Source", versioned=True)
    source = codepipeline.Artifact("Source")
    pipeline = codepipeline.Pipeline(stack, "Pipeline", pipeline_type=codepipeline.PipelineType.V2)
    fetch = actions.S3SourceAction(action_name="Source", bucket=bucket, bucket_key="s.zip", output=source)
    pipeline.add_stage(stage_name="Source", actions=[fetch])
    gate = MeasurementGate(stack, "Gate", environment={"NITROKIT_BLOBS": "/blobs"})
    assembly = codepipeline.Artifact("Assembly")
    deploy = actions.CloudFormationCreateUpdateStackAction(
        action_name="Deploy", stack_name="Hello", template_path=assembly.at_path("Hello.template.json"), admin_permissions=False
    )
    gate.add_stages(pipeline, source, stack_name="Hello", deploy=[deploy], assembly=assembly, attest=attest(stack), retire=True)
    return stack


@pytest.fixture(scope="module")
def plain_stack():
    return _plain_stack()


def _awaiting(stack, **options):
    check = lambda_.Function.from_function_name(stack, "Check", "check-enclaves")
    return AwaitAttestation(stack, "Await", check=check, **options)


@pytest.fixture(scope="module")
def awaiting_stack():
    """The same, waiting by a Lambda."""
    return _plain_stack(lambda stack: _awaiting(stack, wait=cdk.Duration.hours(2)).action())


@pytest.fixture(scope="module")
def plain(plain_stack):
    return Template.from_stack(plain_stack).to_json()["Resources"].values()


def _of(resources, kind):
    return [one["Properties"] for one in resources if one["Type"] == kind]


def _commands(resources, name):
    (project,) = [one for one in _of(resources, "AWS::CodeBuild::Project") if one["Description"] == f"nitrokit's gate: {name}"]
    return json.loads(project["Source"]["BuildSpec"])["phases"]["build"]["commands"]


def test_nothing_is_deployed_before_two_builds_agree_and_the_gate_passes(plain):
    (pipeline,) = _of(plain, "AWS::CodePipeline::Pipeline")
    stages = {stage["Name"]: stage["Actions"] for stage in pipeline["Stages"]}
    assert list(stages) == ["Source", "Build", "Gate", "Deploy", "Attest", "Retire"]
    first, second = stages["Build"]
    assert first["RunOrder"] == second["RunOrder"], "side by side, on hosts of their own"
    assert first["Configuration"]["ProjectName"] != second["Configuration"]["ProjectName"]
    assert {one["Name"] for one in stages["Gate"][0]["InputArtifacts"]} == {"Source", "BuiltFirst", "BuiltSecond"}
    assert [one["Name"] for one in stages["Gate"][0]["OutputArtifacts"]] == ["Assembly"]
    assert [one["Name"] for one in stages["Deploy"][0]["InputArtifacts"]] == ["Assembly"]
    assert "--settled" in _commands(plain, "Retire")[0]
    assert "--wait 1800" in _commands(plain, "Attest")[0]


def test_only_the_steps_that_ask_aws_may_and_they_may_read_alone(plain):
    allowed: dict[str, set[str]] = {}
    for policy in _of(plain, "AWS::IAM::Policy"):
        for statement in policy["PolicyDocument"]["Statement"]:
            for action in [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]:
                allowed.setdefault(action, set()).add(json.dumps(policy["Roles"]))
    assert {"kms:GetKeyPolicy", "ssm:SendCommand", "cloudformation:GetTemplate", "sts:AssumeRole"} <= set(allowed)
    assert len(allowed["ssm:SendCommand"]) == 2, "Attest and Retire"
    assert not {action for action in allowed if action.startswith("kms:")} & {"kms:PutKeyPolicy", "kms:CreateGrant", "kms:*"}


def test_a_lambda_may_wait_in_the_builds_place_and_may_tell_the_job(awaiting_stack):
    resources = Template.from_stack(awaiting_stack).to_json()["Resources"].values()
    (pipeline,) = _of(resources, "AWS::CodePipeline::Pipeline")
    ((attest,),) = [stage["Actions"] for stage in pipeline["Stages"] if stage["Name"] == "Attest"]
    assert (attest["ActionTypeId"]["Category"], attest["ActionTypeId"]["Provider"]) == ("Invoke", "Lambda")
    (function,) = [one for one in _of(resources, "AWS::Lambda::Function") if "CHECK_FUNCTION" in json.dumps(one)]
    assert function["Environment"]["Variables"]["WAIT_SECONDS"] == "7200"
    assert function["Environment"]["Variables"]["CHECK_FUNCTION"] == {
        "Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":lambda:eu-central-1:123456789012:function:check-enclaves"]]
    }
    allowed = {
        action
        for policy in _of(resources, "AWS::IAM::Policy")
        if "AwaitRole" in json.dumps(policy["Roles"])
        for statement in policy["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert {one for one in allowed if not one.startswith(("logs:", "xray:", "sqs:"))} == {
        "lambda:InvokeFunction",
        "codepipeline:PutJobSuccessResult",
        "codepipeline:PutJobFailureResult",
    }


@pytest.mark.parametrize("wait", [cdk.Duration.hours(24), cdk.Duration.days(2)])
def test_a_wait_that_codepipeline_would_cut_off_is_refused(wait):
    with pytest.raises(ValueError, match="out of range"):
        _awaiting(cdk.Stack(_app(), "S"), wait=wait)


@pytest.mark.parametrize("named", [False, True])
def test_languages_are_chosen_where_the_image_has_a_choice(named):
    app = _app()
    stack = cdk.Stack(app, "S", env=cdk.Environment(account="123456789012", region="eu-central-1"))
    debian = codebuild.LinuxBuildImage.from_docker_registry("public.ecr.aws/docker/library/python:3.13-bookworm")
    gate = MeasurementGate(stack, "Gate", build_image=debian, install=["tools"]) if named else MeasurementGate(stack, "Gate")
    source = pipelines.CodePipelineSource.s3(s3.Bucket(stack, "Source", versioned=True), "s.zip")
    pipelines.CodePipeline(stack, "Pipeline", synth=gate.synth_step(source), self_mutation=False)
    specs = [
        json.loads(one["Source"]["BuildSpec"])["phases"]["install"]
        for one in _of(Template.from_stack(stack).to_json()["Resources"].values(), "AWS::CodeBuild::Project")
    ]
    assert {"runtime-versions" in one for one in specs} == {not named}
    assert [one["commands"][-1] for one in specs] == [("tools" if named else INSTALL[-1])] * 3


def test_as_steps_of_cdk_pipelines():
    app = _app()
    stack = cdk.Stack(app, "Pipelines", env=cdk.Environment(account="123456789012", region="eu-central-1"))
    bucket = s3.Bucket(stack, "Source", versioned=True)
    source = pipelines.CodePipelineSource.s3(bucket, "s.zip")
    gate = MeasurementGate(stack, "Gate")
    pipeline = pipelines.CodePipeline(stack, "Pipeline", synth=gate.synth_step(source), self_mutation=False)
    stage = cdk.Stage(app, "Prod", env=cdk.Environment(account="123456789012", region="eu-central-1"))
    cdk.CfnResource(cdk.Stack(stage, "Hello"), "R", type="AWS::CloudFormation::WaitConditionHandle")
    attested = gate.attested_step(source, "Prod-Hello")
    retire = gate.retire_step(source, "Prod-Hello")
    retire.add_step_dependency(attested)
    pipeline.add_stage(stage, post=[attested, retire])
    pipeline.build_pipeline()
    gate.acknowledge_steps(pipeline)
    found = {str(one.construct_path) for rule in AwsSolutionsChecks(app).validate_scope(app).violations for one in rule.violating_resources}
    theirs = ("Source/", "Pipeline/Pipeline/ArtifactsBucket/", "Pipeline/Pipeline/Role/", "Pipeline/Pipeline/Source/")
    assert found, "the rest of the pipeline is not the gate's"
    assert [one for one in found if not one.startswith(tuple(f"Pipelines/{path}" for path in theirs))] == []
    resources = Template.from_stack(stack).to_json()["Resources"].values()
    (found,) = _of(resources, "AWS::CodePipeline::Pipeline")
    order = [action["Name"] for one in found["Stages"] for action in sorted(one["Actions"], key=lambda action: action["RunOrder"])]
    assert {"BuildFirst", "BuildSecond"} == set(order[order.index("Gate") - 2 : order.index("Gate")])
    assert order[-2:] == ["AttestProd-Hello", "RetireProd-Hello"]
    assert order.index("Gate") < min(number for number, name in enumerate(order) if "Deploy" in name or "Prepare" in name)


@pytest.mark.parametrize(("name", "path"), [("plain_stack", "/Gate/"), ("awaiting_stack", "/Await/")])
def test_cdk_nag_and_cfn_lint_find_nothing_in_it(name, path, request, tmp_path):
    stack = request.getfixturevalue(name)
    root = stack.node.root
    found = AwsSolutionsChecks(root).validate_scope(root).violations
    assert [one.rule_name for one in found for resource in one.violating_resources if path in str(resource.construct_path)] == []
    assert found, "the rest of the pipeline is not the gate's"
    (tmp_path / "plain.template.json").write_text(json.dumps(Template.from_stack(stack).to_json()))
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--non-zero-exit-code", "error", str(tmp_path / "plain.template.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for name in ("app.py", "cdk.json", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "enclave_images", folder / "enclave_images")
    (folder / "node_modules").symlink_to(ROOT / "node_modules")
    return folder


def _run(project, commands):
    path = os.pathsep.join([str(ROOT / "node_modules/.bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CDK_VALIDATION": "false"}
    for command in commands:
        # CodeBuild runs each command by itself, and ends at the first that fails.
        done = subprocess.run(["sh", "-c", command], cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=400)
        if done.returncode:
            return done
    return done


@pytest.mark.skipif(not (BLOBS / "bzImage").is_file(), reason="no kernel of the lock: NITROKIT_BLOBS")
@pytest.mark.skipif(not (ROOT / "node_modules").is_dir(), reason="no node_modules: make setup")
def test_the_builds_commands_run_and_fail_where_two_hosts_differ(plain, project):
    done = _run(project, _commands(plain, "BuildFirst"))
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        shutil.copytree(project / "built", project / f"built-{name}")
    gating = [one for one in _commands(plain, "Gate") if not one.startswith("ln ")]
    done = _run(project, gating)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "gate.xml").read_text().startswith("<?xml")
    (project / "built-second/eifs.sha256").write_text("0\n")
    assert _run(project, gating).returncode == 1
    (project / "enclave_images/hello/app/main.py").write_text("changed\n")
    assert _run(project, _commands(plain, "BuildFirst")).returncode == 1, "what is built is not what is locked"
