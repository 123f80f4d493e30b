"""Locked images without a build, and a local AWS with a key in it."""

import json
import os
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.gate.access import access_policy
from nitrokit.gate.locks import LockedImage

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOST = "arn:aws:iam::123456789012:role/host"


def measured(word):
    """A set of measurements, told from others by a word."""
    return Measurements(digest([word, b"0"]), digest([b"kernel"]), digest([word, b"2"]))


OLD, NEW, FOREIGN = measured(b"old"), measured(b"new"), measured(b"foreign")


def locked(current=NEW, *retiring, name="hello", folder=Path("enclave_images/hello")):
    """A lock; ``retiring``: (set, days from now)."""
    sets = tuple(RetiringSet(one, NOW + timedelta(days=days)) for one, days in retiring)
    return LockedImage(folder, name, ReferenceValues(current, sets), {})


def rules(comparisons):
    return sorted(one.rule_id for one in comparisons)


@pytest.fixture(scope="module")
def local():
    """Not for longer: moto's state is the process's, and the next module has a cloud of its own."""
    from nitrokit.emulation.local import LocalAws

    work = Path("/tmp") / f"nkg{os.getpid()}"
    work.mkdir()
    aws = LocalAws(work, environment={}, runner="process", note=lambda _: None)
    yield aws
    aws.close()
    shutil.rmtree(work, ignore_errors=True)


@pytest.fixture
def deploy(local):
    """Deploy resources as a stack by change set, as the CDK CLI does; returns its name."""
    import time

    def run(name, resources, parameters=None):
        client = local.client("cloudformation")
        body = json.dumps({"Resources": resources, **({"Parameters": parameters} if parameters else {})})
        client.create_change_set(StackName=name, ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=body)
        client.execute_change_set(StackName=name, ChangeSetName="c")
        for _ in range(400):
            status = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
            if not status.endswith("IN_PROGRESS"):
                assert status == "CREATE_COMPLETE", client.describe_stack_events(StackName=name)["StackEvents"]
                return name
            time.sleep(0.05)
        raise AssertionError("the stack did not end")

    return run


@pytest.fixture
def reader(local):
    """KMS for a role that has the gate's own IAM policy and nothing else. The local KMS evaluates it."""
    name = f"gate-{uuid.uuid4().hex[:8]}"
    arn = local.create_role(name)
    local.client("iam").put_role_policy(RoleName=name, PolicyName="gate", PolicyDocument=json.dumps(access_policy()))
    return local.client("kms", role_arn=arn)


@pytest.fixture
def make_key(local):
    def make(policy):
        created = local.client("kms").create_key(Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True)
        return created["KeyMetadata"]["KeyId"]

    return make
