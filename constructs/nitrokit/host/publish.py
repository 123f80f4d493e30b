"""What others see of an enclave: metrics, compliance, and its state in a parameter. What cannot be published is said, and changes nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from nitrokit.host import cloudwatch
from nitrokit.host.commands import aws
from nitrokit.host.config import AgentError, Config

_TIMEOUT = 20.0
_REASON = 500
"""Characters: a parameter holds 4,096 (Systems Manager API Reference PutParameter), and JSON may take six for one."""
_METRICS_EVERY, _STATE_EVERY = 60.0, 900.0
COMPLIANCE_TYPE = "Custom:Enclave"


def state(config: Config, told: Dict[str, Any]) -> None:
    """Put the actual state into the parameter and into compliance. Never raises."""
    instance = os.environ.get("AWS_SSM_INSTANCE_ID", "")
    if not (config.parameter and instance):
        return
    if "reason" in told:
        told = {**told, "reason": str(told["reason"])[:_REASON]}
    value = json.dumps({"enclave": config.name, "instance": instance, **told, "at": int(time.time())})
    put = {"Name": f"{config.parameter}/{instance}/{config.name}", "Value": value, "Type": "String", "Overwrite": True}
    _try("state", lambda: aws("ssm", "put-parameter", put, "putting the parameter", timeout=_TIMEOUT))
    report = _compliance(config, instance, told)
    _try("compliance", lambda: aws("ssm", "put-compliance-items", report, "putting compliance", timeout=_TIMEOUT))


def line(config: Config, text: str) -> None:
    """A line about what the agent did. Never raises."""
    _try("a line", lambda: cloudwatch.Stream(config, "agent").put([text]))


def _compliance(config: Config, instance: str, told: Dict[str, Any]) -> Dict[str, Any]:
    """One item an enclave, so that several on a parent do not replace each other's (Systems Manager API Reference PutComplianceItems, UploadType PARTIAL)."""
    good = told.get("status") == "running"
    item = {
        "Id": config.name,
        "Title": f"Enclave {config.name}",
        "Severity": "INFORMATIONAL" if good else "CRITICAL",
        "Status": "COMPLIANT" if good else "NON_COMPLIANT",
        "Details": {"reason": str(told.get("reason", ""))[:200]} if told.get("reason") else {},
    }
    return {
        "ResourceId": instance,
        "ResourceType": "ManagedInstance",
        "ComplianceType": COMPLIANCE_TYPE,
        "ExecutionSummary": {"ExecutionTime": int(time.time())},
        "Items": [item],
        "UploadType": "PARTIAL",
    }


def _try(what: str, action: Callable[[], None]) -> None:
    try:
        action()
    except AgentError as error:
        print(f"not published ({what}): {error}", file=sys.stderr)


class Publisher:
    """Publishes what changed at once, metrics every minute, the state every quarter of an hour."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stream = cloudwatch.Stream(config, "agent")
        self._said: Optional[str] = None
        self._metrics_at = self._state_at = -_STATE_EVERY

    def healthy(self, state: Dict[str, Any], *, wanted: bool) -> None:
        """The enclave is up; ``wanted``: it is what was deployed last."""
        values = {cloudwatch.HEALTHY: 1.0, cloudwatch.RESTARTS: float(state.get("restarts", 0))}
        enclave = state["enclave"]
        told = {"enclave_id": enclave["EnclaveID"], "image": self._config.measurements["PCR0"]}
        if wanted:
            self._say({"status": "running", **told}, values)
        else:
            self._say({"status": "outdated", "reason": "another configuration was deployed than the one that runs", **told}, values)

    def unhealthy(self, error: AgentError) -> None:
        """It is not."""
        self._say({"status": "unhealthy", "reason": str(error)}, {cloudwatch.HEALTHY: 0.0})

    def _say(self, told: Dict[str, Any], values: Dict[str, float]) -> None:
        now, key = time.monotonic(), f"{told['status']} {told.get('enclave_id')}"
        changed = key != self._said
        self._said = key
        if changed or now - self._metrics_at >= _METRICS_EVERY:
            self._metrics_at = now
            lines: List[str] = [cloudwatch.metric(self._config, values)]
            _try("metrics", lambda: self._stream.put(lines))
        if changed or now - self._state_at >= _STATE_EVERY:
            self._state_at = now
            state(self._config, told)
