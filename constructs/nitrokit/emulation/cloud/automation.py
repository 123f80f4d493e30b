"""Systems Manager Automation, which moto does not have: a runbook's steps run one after the other, and what they run, runs.

Source: Systems Manager User Guide "Systems Manager Automation actions reference"; shapes as in botocore's ssm model.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from nitrokit.emulation.cloud import patching
from nitrokit.emulation.cloud.ssm import DocumentError, interpolate, resolve

_POLL = 0.1
_SHOWN = 600


class Automation:
    """``content``: a document's by name; ``client``: of this cloud's Systems Manager."""

    def __init__(self, content: Callable[[str], Mapping[str, Any]], client: Callable[[], Any]) -> None:
        self._content, self._client = content, client
        self._executions: dict[str, dict[str, Any]] = {}

    def start(self, name: str, given: Mapping[str, list[str]]) -> str:
        """Begin a runbook; the execution's id. Raises DocumentError for parameters that it does not take."""
        content = self._content(name)
        values, _ = resolve(content.get("parameters", {}), given)
        execution: dict[str, Any] = {
            "AutomationExecutionId": str(uuid.uuid4()),
            "DocumentName": name,
            "ExecutionStartTime": datetime.now(UTC),
            "AutomationExecutionStatus": "InProgress",
            "StepExecutions": [],
            "Parameters": dict(given),
        }
        self._executions[execution["AutomationExecutionId"]] = execution
        threading.Thread(target=self._run, args=(execution, content["mainSteps"], values), daemon=True).start()
        return str(execution["AutomationExecutionId"])

    def describe(self, execution_id: str) -> dict[str, Any]:
        """As GetAutomationExecution shows it. Raises DocumentError."""
        if execution_id not in self._executions:
            raise DocumentError(f"no automation execution {execution_id}")
        return self._executions[execution_id]

    def _run(self, execution: dict[str, Any], steps: list[Mapping[str, Any]], values: Mapping[str, Any]) -> None:
        names = [step["name"] for step in steps]
        following: str | None = names[0]
        failure = ""
        while following is not None and not failure:
            place = names.index(following)
            record = {"StepName": following, "Action": steps[place]["action"], "StepStatus": "InProgress"}
            execution["StepExecutions"].append(record)
            try:
                following = self._step(steps[place], values) or _next(steps, place)
                record["StepStatus"] = "Success"
            except Exception as error:  # whatever a step fails with is the execution's failure
                failure = f"Step {following} failed: {error}"
                record.update(StepStatus="Failed", FailureMessage=str(error))
        # The status last, since whoever polls reads the rest then.
        execution.update(ExecutionEndTime=datetime.now(UTC), **({"FailureMessage": failure} if failure else {}))
        execution["AutomationExecutionStatus"] = "Failed" if failure else "Success"

    def _step(self, step: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
        """Run one step; the name of the next where it chooses one. Raises DocumentError."""
        inputs = interpolate(step["inputs"], values)
        if step["action"] == "aws:branch":
            chosen = [one["NextStep"] for one in inputs["Choices"] if one["Variable"] == one["StringEquals"]]
            return str(chosen[0] if chosen else inputs["Default"])
        if step["action"] != "aws:runCommand" or step.get("onFailure", "Abort") != "Abort":
            raise DocumentError(f"the local Systems Manager runs no {step['action']} with onFailure {step.get('onFailure')}")
        self._run_command(inputs)
        return None

    def _run_command(self, inputs: Mapping[str, Any]) -> None:
        parameters = {name: value if isinstance(value, list) else [value] for name, value in inputs["Parameters"].items()}
        ssm = self._client()
        command_id = ssm.send_command(**{**inputs, "Parameters": parameters})["Command"]["CommandId"]
        while (command := ssm.list_commands(CommandId=command_id)["Commands"][0])["Status"] == "InProgress":
            time.sleep(_POLL)
        if command["Status"] == "Success":
            return
        told = [ssm.get_command_invocation(CommandId=command_id, InstanceId=one) for one in command["InstanceIds"]]
        causes = "; ".join(f"{one['InstanceId']} {one['StatusDetails']}: {one['StandardErrorContent'].strip()[-_SHOWN:]}" for one in told)
        raise DocumentError(f"command {command_id} {command['Status']}: {causes}")


def _next(steps: list[Mapping[str, Any]], place: int) -> str | None:
    if steps[place].get("isEnd"):
        return None
    following = steps[place].get("nextStep") or (steps[place + 1]["name"] if place + 1 < len(steps) else None)
    return None if following is None else str(following)


def install(automation: Automation) -> Callable[[], None]:
    """Put StartAutomationExecution and GetAutomationExecution into moto; returns what takes them out again."""
    from moto.core.exceptions import JsonRESTError
    from moto.core.responses import ActionResult
    from moto.ssm.responses import SimpleSystemManagerResponse

    def start_automation_execution(response: Any) -> Any:
        request = json.loads(response.body)
        try:
            started = automation.start(request["DocumentName"], request.get("Parameters", {}))
        except DocumentError as error:
            raise JsonRESTError("InvalidAutomationExecutionParametersException", str(error)) from error
        return ActionResult({"AutomationExecutionId": started})

    def get_automation_execution(response: Any) -> Any:
        try:
            return ActionResult({"AutomationExecution": automation.describe(json.loads(response.body)["AutomationExecutionId"])})
        except DocumentError as error:
            raise JsonRESTError("AutomationExecutionNotFoundException", str(error)) from error

    return patching.put(
        SimpleSystemManagerResponse,
        start_automation_execution=start_automation_execution,
        get_automation_execution=get_automation_execution,
    )
