"""The hosts of a fleet, and their enclaves' documents, through Systems Manager.

Sources: Systems Manager API Reference "SendCommand" (at most 50 InstanceIds; one instance that is not connected makes the whole call an InvalidInstanceId; MaxErrors is 0 unless given, so
that the first host that fails would keep the rest from being asked) and "GetCommandInvocation" (24,000 characters of output; ListCommandInvocations gives 2,500, too few for a document).
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nitrokit.core.nonces import enclave_nonce
from nitrokit.handlers.settings import Fleet

BATCH, AT_ONCE = 50, 250
NONCE_BYTES = 32
_ANSWER_WITHIN, _DELIVER_WITHIN = 50.0, 30
_POLLS = (0.3, 0.7, 1.0, 2.0)
_UNFINISHED = ("Pending", "InProgress", "Delayed")


@dataclass(frozen=True)
class Answer:
    """What a host gave: ``document``, or the ``reason`` why there is none. ``nonce``: what its enclave was to be asked with."""

    instance_id: str
    nonce: bytes
    document: bytes | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Output:
    """What a document printed on a host, or the ``reason`` why there is nothing."""

    instance_id: str
    stdout: str | None = None
    reason: str | None = None


class Hosts:
    """``ssm`` and ``ec2``: boto3 clients that retry throttled calls (adaptive mode keeps the pace that the service allows). Errors of theirs pass through: who asks tries again later."""

    def __init__(
        self, ssm: Any, ec2: Any, *, sleep: Callable[[float], None] = time.sleep, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ssm, self._ec2 = ssm, ec2
        self._sleep, self._monotonic = sleep, monotonic

    def of(self, fleet: Fleet) -> list[str]:
        """The instance ids of a fleet, sorted: those named, and those running that have its tags."""
        named = set(fleet.targets.get("InstanceIds", ()))
        tags = [{"Name": key, "Values": list(values)} for key, values in fleet.targets.items() if key.startswith("tag:")]
        return sorted(named | set(self._tagged(tags) if tags else ()))

    def _tagged(self, tags: list[dict[str, Any]]) -> Iterator[str]:
        running = {"Name": "instance-state-name", "Values": ["running"]}
        for page in self._ec2.get_paginator("describe_instances").paginate(Filters=[*tags, running]):
            for reservation in page["Reservations"]:
                yield from (instance["InstanceId"] for instance in reservation["Instances"])

    def ask(self, fleet: Fleet, instance_ids: Sequence[str]) -> Iterator[Answer]:
        """Every host's answer, in the order in which they come. One base for all that are asked at once: each enclave's nonce is derived from it (nitrokit.core.nonces)."""
        for some in _at_once(instance_ids):
            base = secrets.token_bytes(NONCE_BYTES)
            parameters = {"Nonce": [base64.b64encode(base).decode()], "NonceFor": ["instance"]}
            for output in self.run(fleet.document_name, parameters, some):
                yield answer_of(output, enclave_nonce(base, output.instance_id, fleet.enclave))

    def run(self, document_name: str, parameters: Mapping[str, list[str]], instance_ids: Sequence[str]) -> Iterator[Output]:
        """What a document printed on every host, in the order in which they end. No more are asked at once than can be polled in the time that they have to answer."""
        for some in _at_once(instance_ids):
            yield from self._run(document_name, parameters, some)

    def _run(self, document_name: str, parameters: Mapping[str, list[str]], instance_ids: Sequence[str]) -> Iterator[Output]:
        commands: dict[str, str] = {}
        for start in range(0, len(instance_ids), BATCH):
            commands.update(self._send(document_name, parameters, list(instance_ids[start : start + BATCH])))
        answered = set()
        for output in self._collect(commands):
            answered.add(output.instance_id)
            yield output
        for instance_id in instance_ids:
            if instance_id not in answered:
                why = f"no answer in {_ANSWER_WITHIN:.0f} s" if instance_id in commands else "not connected to Systems Manager"
                yield Output(instance_id, reason=why)

    def _send(self, document_name: str, parameters: Mapping[str, list[str]], instance_ids: list[str]) -> dict[str, str]:
        """Instance id → command id; those that are not connected are left out."""
        try:
            sent = self._ssm.send_command(
                InstanceIds=instance_ids,
                DocumentName=document_name,
                Parameters=parameters,
                TimeoutSeconds=_DELIVER_WITHIN,
                MaxConcurrency="100%",
                MaxErrors="100%",
            )
        except self._ssm.exceptions.InvalidInstanceId:
            if len(instance_ids) == 1:
                return {}
            half = len(instance_ids) // 2
            return {
                **self._send(document_name, parameters, instance_ids[:half]),
                **self._send(document_name, parameters, instance_ids[half:]),
            }
        return dict.fromkeys(instance_ids, sent["Command"]["CommandId"])

    def _collect(self, commands: dict[str, str]) -> Iterator[Output]:
        pending, deadline, polls = dict(commands), self._monotonic() + _ANSWER_WITHIN, iter(_POLLS)
        while pending and self._monotonic() < deadline:
            self._sleep(next(polls, _POLLS[-1]))
            for instance_id, command in list(pending.items()):
                found = self._invocation(command, instance_id)
                if found is not None and found["Status"] not in _UNFINISHED:
                    del pending[instance_id]
                    yield _output(instance_id, found)

    def _invocation(self, command: str, instance_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ssm.get_command_invocation(CommandId=command, InstanceId=instance_id)
        except self._ssm.exceptions.InvocationDoesNotExist:
            return None  # not yet delivered
        return found


def _at_once(instance_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (instance_ids[start : start + AT_ONCE] for start in range(0, len(instance_ids), AT_ONCE))


def _output(instance_id: str, found: dict[str, Any]) -> Output:
    if found["Status"] != "Success":
        return Output(instance_id, reason=f"{found['Status']}: {found['StandardErrorContent'][-500:]}")
    return Output(instance_id, found["StandardOutputContent"])


def answer_of(output: Output, nonce: bytes) -> Answer:
    """The document in what the host printed; a host may print anything."""
    if output.stdout is None:
        return Answer(output.instance_id, nonce, reason=output.reason)
    try:
        return Answer(output.instance_id, nonce, document=base64.b64decode(json.loads(output.stdout)["document"], validate=True))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Answer(output.instance_id, nonce, reason=f"the host's answer holds no document: {output.stdout[:300]}")
