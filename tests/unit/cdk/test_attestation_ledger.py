"""AttestationLedger: append-only, signed by nobody but its function, exported under lock; and what it synthesises carries the real store."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import aws_cdk as cdk
import boto3
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks
from moto import mock_aws

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.core.ledger import PASS, LedgerEntry
from nitrokit.handlers.ledger_index import TableIndex
from nitrokit.handlers.ledger_store import Ledger
from nitrokit.handlers.sign_ledger import sign_and_export

ROOT = Path(__file__).parents[3]
CONTEXT = json.loads((ROOT / "cdk.json").read_text())["context"]


def _synthesise(tmp_path, **options):
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path / "out"), context=CONTEXT), "S")
    ledger = AttestationLedger(stack, "Ledger", **options)
    role = iam.Role(stack, "Writer", assumed_by=iam.AccountRootPrincipal())
    ledger.grant_append(role)
    ledger.grant_read(iam.Role(stack, "Auditor", assumed_by=iam.AccountRootPrincipal()))
    return stack, Template.from_stack(stack).to_json()["Resources"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    return (*_synthesise(folder), folder / "out" / "S.template.json")


def _of(resources, kind):
    return [one for one in resources.values() if one["Type"] == kind]


def _only(resources, kind):
    (one,) = _of(resources, kind)
    return one


def test_everything_that_is_evidence_stays(made):
    for kind in ("AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::S3::Bucket"):
        resource = _only(made[1], kind)
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Retain", "Retain"), kind


def test_the_table_recovers_and_deletes_nothing(made):
    table = _only(made[1], "AWS::DynamoDB::Table")["Properties"]
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["DeletionProtectionEnabled"] is True
    (statement,) = table["ResourcePolicy"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", {"AWS": "*"})
    assert {"dynamodb:DeleteItem", "dynamodb:UpdateItem", "dynamodb:BatchWriteItem"} <= set(statement["Action"])


def test_only_the_ledgers_function_signs(made):
    policy = _only(made[1], "AWS::KMS::Key")["Properties"]["KeyPolicy"]["Statement"]
    (deny,) = [one for one in policy if one["Effect"] == "Deny"]
    assert (deny["Action"], deny["Principal"]) == (["kms:CreateGrant", "kms:Sign"], {"AWS": "*"})
    signers = [
        statement
        for one in _of(made[1], "AWS::IAM::Policy")
        for statement in one["Properties"]["PolicyDocument"]["Statement"]
        if "kms:Sign" in statement["Action"]
    ]
    assert len(signers) == 1
    key = _only(made[1], "AWS::KMS::Key")["Properties"]
    assert (key["KeySpec"], key["KeyUsage"]) == ("ECC_NIST_P256", "SIGN_VERIFY")


@pytest.mark.parametrize(("compliance", "mode"), [(False, "GOVERNANCE"), (True, "COMPLIANCE")])
def test_the_export_is_locked(tmp_path, compliance, mode):
    _, resources = _synthesise(tmp_path, compliance=compliance, retention=cdk.Duration.days(2557))
    bucket = _only(resources, "AWS::S3::Bucket")["Properties"]
    assert bucket["ObjectLockEnabled"] is True
    assert bucket["ObjectLockConfiguration"]["Rule"]["DefaultRetention"] == {"Mode": mode, "Days": 2557}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}


def test_what_is_too_short_is_refused(tmp_path):
    for options in ({"schedule": cdk.Duration.minutes(4)}, {"retention": cdk.Duration.hours(23)}):
        with pytest.raises(ValueError, match=r"out of range|too short"):
            _synthesise(tmp_path, **options)


def test_writers_and_auditors_get_what_they_need_and_no_more(made):
    granted = {
        name: {action for statement in one["Properties"]["PolicyDocument"]["Statement"] for action in _list(statement["Action"])}
        for name, one in made[1].items()
        if one["Type"] == "AWS::IAM::Policy"
    }
    assert next(actions for name, actions in granted.items() if name.startswith("Writer")) == {"dynamodb:BatchGetItem", "dynamodb:PutItem"}
    assert next(actions for name, actions in granted.items() if name.startswith("Auditor")) == {
        "dynamodb:BatchGetItem", "dynamodb:Query", "kms:GetPublicKey",
    }  # fmt: skip


def _list(value):
    return value if isinstance(value, list) else [value]


def test_nag_and_cfn_lint_find_nothing(made):
    report = AwsSolutionsChecks(made[0].node.root).validate_scope(made[0].node.root)
    assert [(violation.rule_name, str(violation)[:200]) for violation in report.violations] == []
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--non-zero-exit-code", "error", str(made[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_access_logs_go_where_they_are_wanted(tmp_path):
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path / "out"), context=CONTEXT), "S")
    logs = s3.Bucket(stack, "Logs")
    AttestationLedger(stack, "Ledger", access_logs=logs)
    buckets = _of(Template.from_stack(stack).to_json()["Resources"], "AWS::S3::Bucket")
    assert any("LoggingConfiguration" in one["Properties"] for one in buckets)


def test_the_store_works_on_what_is_deployed(made, monkeypatch):
    """The table and the bucket of the template, made by moto's CloudFormation; a key of the template's kind (moto's makes symmetric ones alone)."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    kept = {name: one for name, one in made[1].items() if one["Type"] in ("AWS::DynamoDB::Table", "AWS::S3::Bucket")}
    kind = {name: _only(made[1], "AWS::KMS::Key")["Properties"][name] for name in ("KeySpec", "KeyUsage")}
    with mock_aws():
        boto3.client("cloudformation").create_stack(StackName="S", TemplateBody=json.dumps({"Resources": kept}))
        resources = boto3.client("cloudformation").describe_stack_resources(StackName="S")["StackResources"]
        ids = {one["ResourceType"]: one["PhysicalResourceId"] for one in resources}
        monkeypatch.setenv("LEDGER_TABLE", ids["AWS::DynamoDB::Table"])
        monkeypatch.setenv("LEDGER_KEY", boto3.client("kms").create_key(**kind)["KeyMetadata"]["KeyId"])
        monkeypatch.setenv("LEDGER_BUCKET", ids["AWS::S3::Bucket"])
        monkeypatch.setenv("LEDGER_ORIGIN", "example.com/ledger")
        ledger = Ledger(ids["AWS::DynamoDB::Table"])
        ledger.append(LedgerEntry("1", datetime.now(UTC), "hello", "i-1", "test", PASS))
        assert sign_and_export(os.environ, datetime.now(UTC)).size == 1
        assert list(TableIndex(ledger, ledger.head().frontier, "hello").hosts()) == ["i-1"]
