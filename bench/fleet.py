"""A fleet in the local AWS: `cdk deploy` of app.py's production form, to the last instance in service, then one check of every enclave; per further host, beside a fleet of two."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nitrokit.emulation.demo.deployment import Cdk
from nitrokit.emulation.local import LocalAws

ROOT = Path(__file__).parents[1]
_CHECKS = 10


def in_service(autoscaling: Any) -> int:
    groups = autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    return sum(one["LifecycleState"] == "InService" for group in groups for one in group["Instances"])


def check(client: Any, function: str) -> Any:
    """What one run of check_enclaves found, by enclave. One machine may be too slow to answer for a hundred in the time that each host has."""
    return json.loads(client.invoke(FunctionName=function, Payload=b"{}")["Payload"].read())["totals"]


def measure(hosts: int) -> dict[str, float]:
    """Seconds of each part. Enclaves run as sandboxed processes."""
    work = Path(tempfile.mkdtemp(prefix="nk-", dir="/tmp"))
    local = LocalAws(work, environment=os.environ, runner="process", note=lambda _: None)
    try:
        cdk = Cdk(ROOT, work, local.environment(), lambda _: None)
        cdk.bootstrap(local.account, local.region)
        anchor = work / "emulated-root.der"
        anchor.write_bytes(local.root_der)
        settings = {"form": "production", "minCapacity": str(hosts), "trustAnchor": str(anchor), "lambdaRuntime": local.lambda_runtime}
        started = time.perf_counter()
        outputs = cdk.deploy({f"nitrokit:{name}": value for name, value in settings.items()})
        deployed = time.perf_counter()
        while in_service(local.client("autoscaling")) < hosts:
            time.sleep(0.5)
        attested = time.perf_counter()
        checks = 1
        while (totals := check(local.client("lambda"), outputs["MonitorFunctionName"])) != {"hello": {"PASS": hosts}}:
            print(f"not all answered in time: {totals}", file=sys.stderr)
            checks += 1
            assert checks <= _CHECKS, totals
        all_checked = time.perf_counter() - attested
        return {"deployed": deployed - started, "all in service": attested - started, "all checked": all_checked, "checks": checks}
    finally:
        local.close()
        shutil.rmtree(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.hosts < 3:
        parser.error(f"--hosts is {options.hosts}; expected 3 or more, which are set beside a fleet of two")
    few, many = measure(2), measure(options.hosts)
    checks = {"2": few.pop("checks"), str(options.hosts): many.pop("checks")}
    further = {name: (many[name] - few[name]) / (options.hosts - 2) for name in few}
    if options.json:
        print(json.dumps({"seconds": {"2": few, str(options.hosts): many}, "per further host": further, "checks": checks}, indent=2))
        return
    for name in few:
        print(f"{few[name]:8.2f} s  {many[name]:8.2f} s  {further[name]:6.2f} s a further host  {name} (2 hosts, {options.hosts} hosts)")


if __name__ == "__main__":
    main()
