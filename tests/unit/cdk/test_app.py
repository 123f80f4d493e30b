"""app.py, as `cdk synth` runs it."""

import gc
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import aws_cdk as cdk
import pytest
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.app_settings import read_settings

ROOT = Path(__file__).parents[3]
OWNER = "arn:aws:iam::123456789012:role/owner"
REGIONS = {"cn-north-1": "arn:aws-cn:", "us-gov-west-1": "arn:aws-us-gov:", "mx-central-1": "arn:aws:"}
"""Two other partitions, and a Region that has not everything."""


def _app(folder, **settings):
    context = json.loads((ROOT / "cdk.json").read_text())["context"] | {f"nitrokit:{name}": value for name, value in settings.items()}
    environment = {**os.environ, "CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(folder)}
    return subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"trustAnchor": "/nowhere/root.der"}, "usage/trust-anchor"),
        ({"image": "/nowhere"}, ""),
        ({"lambdaRuntime": "nodejs22.x"}, "usage/lambda-runtime"),
        ({"form": "staging"}, "usage/form"),
        ({"minCapacity": "0"}, "usage/capacity"),
        ({"dataOwners": "a"}, "usage/context"),
    ],
)
def test_a_wrong_setting_is_one_line_and_no_traceback(tmp_path, settings, code):
    done = _app(tmp_path, **settings)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert code in done.stderr


def test_production_is_a_fleet_that_is_watched(tmp_path):
    done = _app(tmp_path, form="production", minCapacity="3", alarmEmail="ops@example.com", dataOwner=OWNER)
    assert done.returncode == 0, done.stderr[-3000:]
    path = tmp_path / "NitrokitHello.template.json"
    text = path.read_text().replace(OWNER, "")
    resources = json.loads(text)["Resources"].values()
    kinds = {one["Type"] for one in resources}
    assert {"AWS::AutoScaling::AutoScalingGroup", "AWS::CloudWatch::Dashboard", "AWS::DynamoDB::Table"} <= kinds
    assert "AWS::EC2::Instance" not in kinds
    (group,) = [one["Properties"] for one in resources if one["Type"] == "AWS::AutoScaling::AutoScalingGroup"]
    assert (group["MinSize"], group["MaxSize"], len(group["LifecycleHookSpecificationList"])) == ("3", "6", 1)
    assert all(one["Properties"].get("AlarmActions") for one in resources if one["Type"] == "AWS::CloudWatch::Alarm")
    (subscription,) = [one["Properties"] for one in resources if one["Type"] == "AWS::SNS::Subscription"]
    assert subscription["Endpoint"] == "ops@example.com"
    hosts = set(re.findall(r"[\w.-]*amazonaws\.com", text)) - {"kms.us-east-1.amazonaws.com"}  # the hello image's egress
    assert "arn:aws:" not in text and all(one.count(".") == 2 for one in hosts), "services' principals are alike in every partition"
    lint = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "--non-zero-exit-code",
        "error",
        "--regions",
        "us-east-1",
        *REGIONS,
        "--",
        str(path),
    ]
    checked = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def composed(monkeypatch, tmp_path):
    """Runs app.py up to its synthesis; returns the app and what app.py defines."""

    def compose(**context):
        context |= json.loads((ROOT / "cdk.json").read_text())["context"]
        monkeypatch.setenv("CDK_CONTEXT_JSON", json.dumps(context))
        monkeypatch.setenv("CDK_OUTDIR", str(tmp_path))
        monkeypatch.chdir(ROOT)
        made = []
        with monkeypatch.context() as patched:
            patched.setattr(cdk.App, "synth", lambda app, **_: made.append(app))
            defined = runpy.run_path("app.py")
        gc.enable()
        return made[0], defined

    return compose


@pytest.mark.parametrize("form", ["dev", "production"])
def test_it_deploys_into_every_partition_and_into_new_regions(form, composed):
    """CloudFormation's own validation judges each template by its Region."""
    zones = {f"availability-zones:account=123456789012:region={region}": [f"{region}{zone}" for zone in "abc"] for region in REGIONS}
    app, defined = composed(**{"nitrokit:form": form}, **zones)
    stages = [cdk.Stage(app, region, env=cdk.Environment(account="123456789012", region=region)) for region in REGIONS]
    for stage in stages:
        defined["EnclaveStack"](stage, "Hello", read_settings(app))
    assembly = app.synth()
    for stage, (region, arn) in zip(stages, REGIONS.items(), strict=True):
        (stack,) = assembly.get_nested_assembly(stage.artifact_id).stacks
        text = json.dumps(stack.template)
        assert set(re.findall(r"arn:aws[a-z-]*:", text)) <= {arn}
        assert set(re.findall(rf"\b(?:{'|'.join(REGIONS)})\b", text)) == {region}


@pytest.mark.parametrize("form", ["dev", "production"])
def test_nag_finds_nothing_that_is_not_acknowledged(form, composed):
    app, _ = composed(**{"nitrokit:form": form})
    assert [one.rule_name for one in AwsSolutionsChecks(app).validate_scope(app).violations] == []


def test_the_app_is_composition():
    assert len((ROOT / "app.py").read_text().splitlines()) <= 60
