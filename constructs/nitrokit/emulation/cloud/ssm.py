"""Systems Manager that runs: Command documents go step by step onto instances. moto records commands as successful and runs nothing.

Source: Systems Manager User Guide "Command document plugin reference", "Data elements and parameters"; limits as in botocore's ssm model.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.emulation.interfaces import InstanceHost, ScriptResult

RUN_SHELL_SCRIPT = "AWS-RunShellScript"
_STDOUT_LIMIT, _STDERR_LIMIT = 24_000, 8_000
_DEFAULT_TIMEOUT, _TIMEOUTS = 3600.0, range(5, 172_801)
_BUILT_IN = {
    "schemaVersion": "2.2",
    "parameters": {
        "commands": {"type": "StringList"},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {"type": "String", "default": "3600"},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "runShellScript",
            "inputs": {"timeoutSeconds": "{{ executionTimeout }}", "runCommand": "{{ commands }}"},
        }
    ],
}


@dataclass(frozen=True)
class Outcome:
    """How a document ended on one instance."""

    status: str
    exit_code: int
    stdout: str
    stderr: str
    failed_step: str = ""


class DocumentError(Exception):
    """A document or parameters that cannot be run; the message is what the service would answer."""


def run_document(
    content: Mapping[str, Any],
    parameters: Mapping[str, list[str]],
    host: InstanceHost,
    environment: Mapping[str, str],
    note: Callable[[str], None],
) -> Outcome:
    """Run a Command document (schema 2.2) on an instance. A failed step fails the document; the steps after it run all the same, unless it says
    ``onFailure: exit`` (amazon-ssm-agent:agent/framework/runpluginutil).
    """
    values, variables = resolve(content.get("parameters", {}), parameters)
    stdout, stderr = "", ""
    failed: tuple[str, ScriptResult] | None = None
    for step in content["mainSteps"]:
        if not _applies(step.get("precondition")):
            continue
        note(f"SSM step {step['name']}")
        result = _run_step(step, values, {**environment, **variables}, host)
        stdout += result.stdout
        stderr += result.stderr
        if result.exit_code != 0:
            failed = failed or (step["name"], result)
            if step["inputs"].get("onFailure") == "exit":
                break
    if failed is None:
        return Outcome("Success", 0, stdout[:_STDOUT_LIMIT], stderr[-_STDERR_LIMIT:])
    name, result = failed
    status = "TimedOut" if result.exit_code == 124 else "Failed"
    return Outcome(status, result.exit_code, stdout[:_STDOUT_LIMIT], stderr[-_STDERR_LIMIT:], name)


def resolve(declared: Mapping[str, Any], given: Mapping[str, list[str]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values for ``{{ name }}``, and environment variables of parameters with interpolationType ENV_VAR. Raises DocumentError."""
    if unknown := set(given) - set(declared):
        raise DocumentError(f"InvalidParameters: {', '.join(sorted(unknown))} not in the document")
    values: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for name, declaration in declared.items():
        value: Any = given.get(name, declaration.get("default"))
        if value is None:
            raise DocumentError(f"InvalidParameters: {name} is missing")
        if declaration["type"] == "String" and isinstance(value, list):
            value = value[0] if value else ""
        pattern = declaration.get("allowedPattern")
        if pattern and not all(re.fullmatch(pattern, one) for one in (value if isinstance(value, list) else [value])):
            raise DocumentError(f"InvalidParameters: {name} does not match {pattern}")
        if value not in declaration.get("allowedValues", [value]):
            raise DocumentError(f"InvalidParameters: {name} is none of {', '.join(declaration['allowedValues'])}")
        if declaration.get("interpolationType") == "ENV_VAR":
            variables[f"SSM_{name}"] = value
        else:
            values[name] = value
    return values, variables


def interpolate(value: Any, values: Mapping[str, Any]) -> Any:
    """``{{ name }}`` in a document's strings, however deep; a string that is nothing else becomes the value itself."""
    if isinstance(value, Mapping):
        return {name: interpolate(one, values) for name, one in value.items()}
    if isinstance(value, list):
        return [interpolate(one, values) for one in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\{\{\s*(\w+)\s*\}\}", value)
    if whole and whole.group(1) in values:
        return values[whole.group(1)]
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: str(values.get(match.group(1), match.group(0))), value)


def _applies(precondition: Mapping[str, Any] | None) -> bool:
    return all(operands == ["platformType", "Linux"] for operands in (precondition or {}).values())


def _run_step(step: Mapping[str, Any], values: Mapping[str, Any], environment: Mapping[str, str], host: InstanceHost) -> ScriptResult:
    if step["action"] != "aws:runShellScript":
        raise DocumentError(f"the local Systems Manager does not run {step['action']}")
    inputs = {name: interpolate(value, values) for name, value in step["inputs"].items()}
    lines = inputs["runCommand"]
    timeout = float(inputs.get("timeoutSeconds") or _DEFAULT_TIMEOUT)
    # Out of range values are silently replaced by the default (amazon-ssm-agent:agent/plugins/pluginutil).
    return host.run_script(
        "\n".join(lines if isinstance(lines, list) else [lines]), environment, timeout if int(timeout) in _TIMEOUTS else _DEFAULT_TIMEOUT
    )


class SystemsManager:
    """Runs commands and associations; ``host`` gives an instance's host and environment by id, ``document`` a deployed document's content by name."""

    def __init__(
        self, host: Callable[[str], tuple[InstanceHost, Mapping[str, str]]], document: Callable[[str], str], note: Callable[[str], None]
    ) -> None:
        self._host = host
        self._document = document
        self._note = note

    def content(self, name: str) -> Mapping[str, Any]:
        """A document's content, the built-in one or a deployed one."""
        value: Mapping[str, Any] = _BUILT_IN if name == RUN_SHELL_SCRIPT else json.loads(self._document(name))
        return value

    def execute(self, document: str, instance_id: str, parameters: Mapping[str, list[str]]) -> Outcome:
        """Run and wait."""
        try:
            host, environment = self._host(instance_id)
            return run_document(self.content(document), parameters, host, environment, self._note)
        except Exception as error:
            return Outcome("Failed", 1, "", f"{type(error).__name__}: {error}")

    def start(self, command: Any, finished: Callable[[], None]) -> None:
        """Run moto's command in the background on every instance; its invocations are updated in place."""
        threading.Thread(target=self._run_all, args=(command, finished), daemon=True).start()

    def _run_all(self, command: Any, finished: Callable[[], None]) -> None:
        """One after the other. Where MaxConcurrency asks for that too, and MaxErrors is 0, none follows one that failed (Systems Manager User Guide "Using targets and rate controls")."""
        careful, failed = (command.max_concurrency, command.max_errors) == ("1", "0"), False
        for invocation in command.invocations:
            if failed and careful:
                invocation.update(StatusDetails="Terminated", Status="Cancelled")
                continue
            outcome = self.execute(command.document_name, invocation["InstanceId"], command.parameters)
            failed = failed or outcome.status != "Success"
            invocation.update(StandardOutputContent=outcome.stdout, StandardErrorContent=outcome.stderr, ResponseCode=outcome.exit_code)
            # Last, since whoever polls reads the rest when the status says that it is over.
            invocation.update(StatusDetails=outcome.status, Status=outcome.status)
        finished()
