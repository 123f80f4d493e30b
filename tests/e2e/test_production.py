"""app.py's production form in the local cloud: instances wait in the lifecycle hook until the deployed Lambda has appraised their real documents."""

import json
import os
import shutil
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from moto.ssm.models import ssm_backends

from nitrokit.emulation.demo.deployment import Cdk
from nitrokit.emulation.local import LocalAws

ROOT = Path(__file__).parents[2]
HOSTS = 2


@pytest.fixture
def local():
    # Short: unix socket paths below it must fit in 108 bytes.
    work = Path(tempfile.mkdtemp(prefix="nk-", dir="/tmp"))
    aws = LocalAws(work, environment=os.environ, runner="process", note=lambda _: None)
    yield work, aws
    aws.close()
    shutil.rmtree(work)


def _states(autoscaling):
    return sorted(
        one["LifecycleState"] for group in autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] for one in group["Instances"]
    )


def _parameters(aws):
    pages = aws.client("ssm").get_paginator("get_parameters_by_path").paginate(Path="/nitrokit", Recursive=True)
    return {one["Name"]: one["Value"] for page in pages for one in page["Parameters"]}


def _backdate(aws, *names):
    """As if they had been written two hours ago."""
    parameters = ssm_backends[aws.account][aws.region]._parameters
    for name in names:
        parameters[name][-1].last_modified_date -= timedelta(hours=2)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_fleets_instances_go_into_service_when_they_are_attested(local):
    work, aws = local
    autoscaling, seen, over = aws.client("autoscaling"), [], threading.Event()

    def watch():
        while not over.wait(0.2):
            if (states := _states(autoscaling)) and states not in seen:
                seen.append(states)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        cdk = Cdk(ROOT, work, aws.environment(), lambda _: None)
        cdk.bootstrap(aws.account, aws.region)
        anchor = work / "emulated-root.der"
        anchor.write_bytes(aws.root_der)
        settings = {"form": "production", "minCapacity": str(HOSTS), "trustAnchor": str(anchor), "lambdaRuntime": aws.lambda_runtime}
        settings["alarmEmail"] = "ops@example.com"
        outputs = cdk.deploy({f"nitrokit:{name}": value for name, value in settings.items()})
        deadline = time.monotonic() + 120
        while seen[-1:] != [["InService"] * HOSTS] and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        over.set()
        watcher.join()
    assert seen[0] == ["Pending:Wait"] * HOSTS
    assert seen[-1] == ["InService"] * HOSTS, aws.diagnosis()[-3000:]
    (told,) = aws.client("sns").list_subscriptions()["Subscriptions"]
    assert (told["Protocol"], told["Endpoint"]) == ("email", "ops@example.com")
    before = _parameters(aws)
    (below,) = {json.loads(value)["states"] for name, value in before.items() if name.endswith("/fleets/hello")}
    states, gone = [name for name in before if name.startswith(f"{below}/i-")], f"{below}/i-{0xE:017x}/hello"
    aws.client("ssm").put_parameter(Name=gone, Value="{}", Type="String")
    _backdate(aws, gone, *states)
    answer = aws.client("lambda").invoke(FunctionName=outputs["MonitorFunctionName"], Payload=b"{}")["Payload"].read()
    checked = json.loads(answer)
    assert (checked["verdict"], checked["totals"]) == ("PASS", {"hello": {"PASS": HOSTS}}), answer
    left = _parameters(aws)
    assert (gone in left, set(states) <= set(left)) == (False, True), "what an ended instance left goes, and nobody else's"
