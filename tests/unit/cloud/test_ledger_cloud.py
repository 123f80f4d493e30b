"""AttestationLedger deployed into the local AWS: its function signs with its key, which nobody else may use, and exports what anyone verifies."""

import json
import platform
import sys
from datetime import UTC, datetime

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_
from botocore.exceptions import ClientError

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.monitor_function import FunctionOptions
from nitrokit.core.ledger import PASS, LedgerEntry, TiledLedger, verify_checkpoint, walk
from nitrokit.handlers.ledger_export import BucketStore
from nitrokit.handlers.ledger_signing import kms_public_key
from nitrokit.handlers.ledger_store import Ledger


@pytest.fixture(scope="module")
def deployed(local, tmp_path_factory):
    """Type of a resource → its name in the local AWS; the template as synthesised, the function's code from the local S3."""
    folder = tmp_path_factory.mktemp("ledger")
    app = cdk.App(outdir=str(folder))
    stack = cdk.Stack(app, "S")
    runtime = lambda_.Runtime(f"python{sys.version_info.major}.{sys.version_info.minor}", lambda_.RuntimeFamily.PYTHON)
    architecture = lambda_.Architecture.ARM_64 if platform.machine() == "aarch64" else lambda_.Architecture.X86_64
    AttestationLedger(stack, "Ledger", options=FunctionOptions(runtime, architecture))
    app.synth()
    resources = json.loads((folder / "S.template.json").read_text())["Resources"]
    (function,) = [one for one in resources.values() if one["Type"] == "AWS::Lambda::Function"]
    local.client("s3").create_bucket(Bucket="code")
    local.client("s3").put_object(Bucket="code", Key="asset.zip", Body=next(folder.glob("asset.*.zip")).read_bytes())
    function["Properties"]["Code"] = {"S3Bucket": "code", "S3Key": "asset.zip"}
    client = local.client("cloudformation")
    client.create_change_set(
        StackName="ledger", ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=json.dumps({"Resources": resources})
    )
    client.execute_change_set(StackName="ledger", ChangeSetName="c")
    client.get_waiter("stack_create_complete").wait(StackName="ledger", WaiterConfig={"Delay": 0.2, "MaxAttempts": 300})
    return {
        one["ResourceType"]: one.get("PhysicalResourceId", "")
        for one in client.describe_stack_resources(StackName="ledger")["StackResources"]
    }


@pytest.fixture(scope="module")
def kms(local):
    """KMS as an administrator sees it, whom IAM lets do everything."""
    role = local.create_role("administrator")
    policy = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}
    local.client("iam").put_role_policy(RoleName="administrator", PolicyName="all", PolicyDocument=json.dumps(policy))
    return local.client("kms", role_arn=role)


def test_the_deployed_function_signs_and_exports(local, deployed, kms):
    ledger = Ledger(deployed["AWS::DynamoDB::Table"], local.client("dynamodb"))
    ledger.append_all([LedgerEntry(f"id{number}", datetime.now(UTC), "hello", "i-1", "test", PASS) for number in range(3)])
    answer = local.client("lambda").invoke(FunctionName=deployed["AWS::Lambda::Function"], Payload=b"{}")
    told = json.loads(answer["Payload"].read())
    assert told.get("entries") == 3, told
    store = BucketStore(deployed["AWS::S3::Bucket"], local.client("s3"))
    key = kms_public_key(deployed["AWS::KMS::Key"], kms)
    checkpoint = verify_checkpoint(store.read("checkpoint") or b"", key)
    assert checkpoint.root.hex() == told["root"]
    assert len(list(walk(TiledLedger(3, store.read), 3, [checkpoint]))) == 3


def test_nobody_else_signs(deployed, kms):
    with pytest.raises(ClientError, match="explicit deny"):
        kms.sign(KeyId=deployed["AWS::KMS::Key"], Message=b"m", SigningAlgorithm="ECDSA_SHA_256")
