"""What checking a fleet remembers, in DynamoDB: the run's state, changed by compare-and-set, and each enclave's last verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nitrokit.handlers.run_state import RunError, RunState

_RUN = "run"
_GET, _TRIES = 100, 8  # items of one BatchGetItem (Amazon DynamoDB API Reference)


@dataclass(frozen=True)
class Remembered:
    """An enclave's last verdict: ``outcome`` since ``run``; ``before``: what it was until then."""

    outcome: str
    run: str
    before: str | None

    def before_run(self, run: str) -> str | None:
        """What it was before this run, however often the run did this part of its work."""
        return self.before if self.run == run else self.outcome


class RunStore:
    """``client``: boto3's DynamoDB client. The table's key is ``id``."""

    def __init__(self, client: Any, table: str) -> None:
        self._client, self._table = client, table

    def update(self, step: Callable[[RunState], RunState]) -> RunState:
        """Replace the state by what ``step`` makes of it; again, where another one was faster. Raises RunError where that never ends, and what ``step`` raises."""
        for _ in range(_TRIES):
            item = self._client.get_item(TableName=self._table, Key={"id": {"S": _RUN}}, ConsistentRead=True).get("Item")
            state = RunState.parse(item["state"]["S"]) if item else RunState()
            changed = step(state)
            if changed == state or self._put(changed, int(item["version"]["N"]) if item else 0):
                return changed
        raise RunError("contended", "the run's state could not be written", got=f"{_TRIES} tries", do="invoke it again")

    def _put(self, state: RunState, version: int) -> bool:
        condition = _unless_moved("version", {"N": str(version)} if version else None)
        item = {"id": {"S": _RUN}, "version": {"N": str(version + 1)}, "state": {"S": state.to_json()}}
        try:
            self._client.put_item(TableName=self._table, Item=item, **condition)
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def remembered(self, enclave: str, instance_ids: Sequence[str]) -> dict[str, Remembered]:
        """The last verdicts of these instances, where there are some."""
        keys: list[Mapping[str, Any]] = [{"id": {"S": _key(enclave, one)}} for one in instance_ids]
        found: dict[str, Remembered] = {}
        while keys:
            asked = {self._table: {"Keys": keys[:_GET], "ConsistentRead": True}}
            answer = self._client.batch_get_item(RequestItems=asked)
            for item in answer["Responses"][self._table]:
                before = item["before"]["S"] or None
                found[item["instance"]["S"]] = Remembered(item["outcome"]["S"], item["run"]["S"], before)
            keys = [*answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", []), *keys[_GET:]]
        return found

    def remember(self, enclave: str, changes: Iterable[tuple[str, Remembered]]) -> None:
        """Write verdicts that changed."""
        for instance_id, one in changes:
            item = {
                "id": _key(enclave, instance_id),
                "instance": instance_id,
                "outcome": one.outcome,
                "run": one.run,
                "before": one.before or "",
            }
            self._client.put_item(TableName=self._table, Item={name: {"S": value} for name, value in item.items()})

    def forget(self, enclave: str, instance_id: str) -> None:
        """Delete a verdict, if there is one."""
        self._client.delete_item(TableName=self._table, Key={"id": {"S": _key(enclave, instance_id)}})

    def mark(self, name: str) -> str | None:
        """How far a job has come; None before its first time."""
        item = self._client.get_item(TableName=self._table, Key={"id": {"S": f"mark/{name}"}}, ConsistentRead=True).get("Item")
        return str(item["value"]["S"]) if item else None

    def set_mark(self, name: str, value: str, before: str | None) -> None:
        """Move on, if nobody else has meanwhile. Raises RunError."""
        condition = _unless_moved("value", {"S": before} if before else None)
        try:
            self._client.put_item(TableName=self._table, Item={"id": {"S": f"mark/{name}"}, "value": {"S": value}}, **condition)
        except self._client.exceptions.ConditionalCheckFailedException as error:
            raise RunError("taken-over", "another invocation has done this part", got=name, do="nothing: it goes on there") from error


def _key(enclave: str, instance_id: str) -> str:
    return f"verdict/{enclave}/{instance_id}"


def _unless_moved(attribute: str, before: Mapping[str, str] | None) -> dict[str, Any]:
    """The condition that an attribute is what it was when it was read; None: that there was none."""
    if before is None:
        return {"ConditionExpression": "attribute_not_exists(id)"}
    names, values = {"#before": attribute}, {":before": before}
    return {"ConditionExpression": "#before = :before", "ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
