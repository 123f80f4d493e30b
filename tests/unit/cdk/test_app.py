"""app.py, as `cdk synth` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


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
    done = _app(
        tmp_path, form="production", minCapacity="3", alarmEmail="ops@example.com", dataOwner="arn:aws:iam::123456789012:role/owner"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    resources = json.loads((tmp_path / "NitrokitHello.template.json").read_text())["Resources"].values()
    kinds = {one["Type"] for one in resources}
    assert {"AWS::AutoScaling::AutoScalingGroup", "AWS::CloudWatch::Dashboard", "AWS::DynamoDB::Table"} <= kinds
    assert "AWS::EC2::Instance" not in kinds
    (group,) = [one["Properties"] for one in resources if one["Type"] == "AWS::AutoScaling::AutoScalingGroup"]
    assert (group["MinSize"], group["MaxSize"], len(group["LifecycleHookSpecificationList"])) == ("3", "6", 1)
    assert all(one["Properties"].get("AlarmActions") for one in resources if one["Type"] == "AWS::CloudWatch::Alarm")
    (subscription,) = [one["Properties"] for one in resources if one["Type"] == "AWS::SNS::Subscription"]
    assert subscription["Endpoint"] == "ops@example.com"


def test_the_app_is_composition():
    assert len((ROOT / "app.py").read_text().splitlines()) < 60
