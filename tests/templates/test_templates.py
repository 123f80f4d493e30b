"""Every scenario's template before those who judge templates, and beside what it was.

CloudFormation's own validation (the engine of cloudformation-validate) and nitrokit's rules judge it at synthesis already; one test shows that they do.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase as fnmatch
from functools import wraps
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from cdk_nag import AwsSolutionsChecks
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from .conftest import SCENARIOS

SNAPSHOTS = Path(__file__).with_name("snapshots")
CHECKOV = Path(__file__).parents[1] / "checkov"
_POLICIES = {
    "AWS::IAM::Policy": "PolicyDocument",
    "AWS::IAM::Role": "AssumeRolePolicyDocument",
    "AWS::KMS::Key": "KeyPolicy",
    "AWS::EC2::VPCEndpoint": "PolicyDocument",
    "AWS::S3::BucketPolicy": "PolicyDocument",
    "AWS::SNS::TopicPolicy": "PolicyDocument",
    "AWS::SQS::QueuePolicy": "PolicyDocument",
}


def test_a_template_that_cloudformation_would_refuse_is_not_synthesised(synthesise):
    def wrong(stack, eif):
        ec2.CfnSecurityGroup(stack, "Group", group_description="x", vpc_id="not-a-vpc")

    with pytest.raises(RuntimeError, match="CloudFormation Validate"):
        synthesise(wrong)


def test_cfn_lint_finds_no_error(scenario):
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--non-zero-exit-code", "error", str(scenario.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_is_taggable_that_cloudformation_tags(scenario):
    schemas = PROVIDER_SCHEMA_MANAGER
    lacking = []
    for name, resource in scenario.template["Resources"].items():
        kind = resource["Type"]
        properties = {} if kind.startswith("Custom::") else schemas.get_resource_schema("us-east-1", kind).schema["properties"]
        if {"Tags", "TagSpecifications"} & set(properties) and "platform" not in json.dumps(resource["Properties"]):
            lacking.append(f"{kind} {name}")
    assert lacking == []


def test_nag_finds_nothing_that_is_not_acknowledged(scenario):
    found = AwsSolutionsChecks(scenario.app).validate_scope(scenario.app).violations
    where = [(one.rule_name, str(place.construct_path)) for one in found for place in one.violating_resources]
    assert [one for one in where if "/Theirs/" not in one[1]] == []


BY_FROM = {"EnclaveImage": {"controlled", "source"}}
"""What the ``from_…`` give, and nobody else."""


def test_every_construct_is_in_some_scenario_with_every_prop_given(published, monkeypatch, tmp_path, eif):
    """Else nobody judges what they make."""
    given = {name: {"self", "scope", "id"} | BY_FROM.get(name, set()) for name in published}
    for name, construct in published.items():
        monkeypatch.setattr(construct, "__init__", _noting(construct.__init__, given[name]))
    for name in ("all_values", "pipeline"):
        SCENARIOS[name](cdk.Stack(cdk.App(outdir=str(tmp_path / name)), "S"), eif)
    props = {name: {*inspect.signature(construct.__init__).parameters} for name, construct in published.items()}
    assert {name: sorted(props[name] - given[name]) for name in published if props[name] - given[name]} == {}


def _noting(original, given):
    @wraps(original)
    def init(self, scope, id, **props):
        given.update(props)
        original(self, scope, id, **props)

    return init


def test_checkov_finds_nothing_that_is_not_explained(scenarios):
    """Names what it does not find any more, too."""
    program = CHECKOV / ".venv/bin/checkov"
    if not program.exists():
        pytest.skip("checkov is not installed: make tests/checkov/.venv/.ready")
    explained = json.loads((CHECKOV / "explained.json").read_text())
    files = [word for one in sorted(SNAPSHOTS.glob("*.json")) for word in ("--file", str(scenarios(one.stem).path))]
    command = [str(program), *files, "--framework", "cloudformation", "--skip-download", "--output", "json", "--quiet", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    found = {f"{one['check_id']} {one['resource'].partition('.')[2]}" for one in report["results"]["failed_checks"]}
    found = {one for one in found if " Theirs" not in one}
    assert [one for one in sorted(found) if not any(fnmatch(one, pattern) for pattern in explained)] == []
    assert [pattern for pattern in explained if not any(fnmatch(one, pattern) for one in found)] == []


def _normalised(value):
    """Contents of assets and of the agent change with every commit, and say nothing here; nor do the ids of wait conditions, of which each configuration has its own."""
    text = re.sub(r"[0-9a-f]{64}", "<sha256>", json.dumps(value))
    return _sorted(json.loads(re.sub(r"(Signal|Healthy)[0-9a-f]{8}[0-9A-F]{8}", r"\1<digest>", text)))


def _sorted(value):
    """A statement's resources are a set; the CDK orders them by what they are, hashes too."""
    if isinstance(value, dict):
        return {
            key: sorted(map(_sorted, one), key=json.dumps) if key == "Resource" and isinstance(one, list) else _sorted(one)
            for key, one in value.items()
        }
    return [_sorted(one) for one in value] if isinstance(value, list) else value


def _meaning(template):
    """Which resources there are, by id (ids are a contract: another one is another resource), who may do what, and who may connect."""
    resources = template["Resources"]
    properties = {name: (one["Type"], one.get("Properties", {})) for name, one in resources.items()}
    return _normalised(
        {
            "resources": {name: kind for name, (kind, _) in sorted(properties.items())},
            "statements": {
                name: found[_POLICIES[kind]]["Statement"] for name, (kind, found) in sorted(properties.items()) if kind in _POLICIES
            },
            "ingress": {name: found for name, (kind, found) in sorted(properties.items()) if kind == "AWS::EC2::SecurityGroupIngress"},
        }
    )


def test_nothing_changed_unawares(scenario):
    """When this fails, read the difference first. A change that is meant: NITROKIT_UPDATE_SNAPSHOTS=1 pytest tests/templates, and say why in the commit."""
    path = SNAPSHOTS / f"{scenario.name}.json"
    text = json.dumps(_meaning(scenario.template), indent=1, sort_keys=True) + "\n"
    if os.environ.get("NITROKIT_UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert json.loads(text) == json.loads(path.read_text())


# What the scenarios mean


def _of(template, kind):
    return [one["Properties"] for one in template["Resources"].values() if one["Type"] == kind]


def test_two_images_share_a_host_and_a_key(scenarios):
    template = scenarios("two_images").template
    (instance,), (key,) = _of(template, "AWS::EC2::Instance"), _of(template, "AWS::KMS::Key")
    assert instance["InstanceType"] == "c6i.2xlarge"
    assert len(_of(template, "AWS::SSM::Association")) == 2
    # The same EIF twice is one set, so one statement.
    allowed = [one for one in key["KeyPolicy"]["Statement"] if one["Effect"] == "Allow" and "RecipientAttestation" in json.dumps(one)]
    assert allowed


def test_a_rollover_opens_for_both_sets_and_tells_the_date(scenarios):
    (key,) = _of(scenarios("rollover").template, "AWS::KMS::Key")
    allowed = [one for one in key["KeyPolicy"]["Statement"] if one["Effect"] == "Allow" and "RecipientAttestation" in json.dumps(one)]
    assert len(allowed) == 2
    assert "2036" in json.dumps(allowed)


def test_alarms_are_sent_and_shown(scenarios):
    template = scenarios("fleet").template
    for alarm in _of(template, "AWS::CloudWatch::Alarm"):
        assert alarm.get("AlarmActions"), alarm["AlarmDescription"]
    (dashboard,) = _of(template, "AWS::CloudWatch::Dashboard")
    body = json.dumps(dashboard["DashboardBody"])
    for words in ("AttestationPassed", "EnclaveHealthy", "GroupInServiceInstances", "CapacityAlarm"):
        assert words in body
