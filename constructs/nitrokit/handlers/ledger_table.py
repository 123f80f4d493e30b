"""DynamoDB as the ledger uses it: consistent reads by key, and transactions that happen whole or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.exceptions import ConnectionError as NoConnectionError

from nitrokit.core.ledger.layout import KEY
from nitrokit.errors import EnvironmentProblem

Item = dict[str, Any]
_MAX_GET = 100
_ATTEMPTS = 30
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 2.0
_AGAIN = {
    "ConditionalCheckFailed", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "None",  # reasons of a cancelled transaction
    "ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "TransactionInProgressException", "TransactionConflictException",
    "InternalServerError", "ServiceUnavailable",
}  # fmt: skip
"""What another attempt may mend (Amazon DynamoDB Developer Guide, "Error handling", and the API's CancellationReasons)."""


class LedgerUnavailableError(EnvironmentProblem):
    """The ledger cannot be reached, or is too busy. Whether the last write happened is not known; an entry's id makes it safe to write it again."""

    area = "ledger"


@dataclass(frozen=True)
class Put:
    """One item of a transaction, and on what condition: None, where there must be no item of its key yet."""

    item: Item
    condition: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    values: Item = field(default_factory=dict)

    def request(self, table: str) -> dict[str, Any]:
        """As TransactWriteItems takes it."""
        request = {"TableName": table, "Item": self.item, "ConditionExpression": self.condition or "attribute_not_exists(#key)"}
        names = self.names if self.condition else {"#key": KEY}
        return {
            "Put": {**request, "ExpressionAttributeNames": names, **({"ExpressionAttributeValues": self.values} if self.values else {})}
        }


@dataclass(frozen=True)
class Table:
    """A table by its name. ``client``: boto3's DynamoDB client. ``sleep``: waits, in seconds."""

    name: str
    client: Any
    sleep: Callable[[float], None]

    def get(self, keys: Sequence[str], attributes: Sequence[str] = ()) -> dict[str, Item]:
        """The items of these keys that there are, as they are now: key → item. ``attributes``: these alone, and the key. Raises LedgerUnavailableError."""
        found: dict[str, Item] = {}
        for start in range(0, len(keys), _MAX_GET):
            self._get(list(dict.fromkeys(keys[start : start + _MAX_GET])), attributes, found)
        return found

    def _get(self, keys: list[str], attributes: Sequence[str], found: dict[str, Item]) -> None:
        names = {f"#{number}": name for number, name in enumerate((KEY, *attributes))}
        projection = {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names} if attributes else {}
        wanted = [{KEY: {"S": key}} for key in keys]
        for _ in self.attempts():
            request = {self.name: {"Keys": wanted, "ConsistentRead": True, **projection}}
            answer = self._call(self.client.batch_get_item, RequestItems=request)
            if answer is None:
                continue
            found.update({item[KEY]["S"]: item for item in answer["Responses"].get(self.name, [])})
            wanted = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if not wanted:
                return

    def put(self, puts: Sequence[Put]) -> bool:
        """Put all items or none. False: none, or nobody knows (a condition did not hold, DynamoDB is busy, the answer was lost): read again. Raises LedgerUnavailableError."""
        return self._call(self.client.transact_write_items, TransactItems=[put.request(self.name) for put in puts]) is not None

    def query(self, **arguments: Any) -> Iterator[Item]:
        """The items of a query, page by page. Raises LedgerUnavailableError."""
        more: dict[str, Any] = {}
        while True:
            answer = next(
                answer for _ in self.attempts() if (answer := self._call(self.client.query, TableName=self.name, **arguments, **more))
            )
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def attempts(self) -> Iterator[int]:
        """Numbers of attempts, with a wait between two that grows and is random, so that writers who collided do not meet again. Raises LedgerUnavailableError at the end."""
        for number in range(_ATTEMPTS):
            yield number
            self.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**number)))
        raise LedgerUnavailableError(
            "busy",
            "DynamoDB did not take the request",
            got=f"{_ATTEMPTS} attempts at {self.name}",
            do="try again later: nothing is lost, and nothing counts twice",
        )

    def _call(self, operation: Callable[..., Any], **arguments: Any) -> Any:
        """The answer; None where another attempt may help."""
        try:
            return operation(**arguments)
        except ClientError as error:
            if _reasons(error) <= _AGAIN:
                return None
            raise LedgerUnavailableError(
                "dynamodb",
                "DynamoDB refused",
                got=str(error)[:400],
                expected=f"the table {self.name}, and leave to use it",
                do="check the table's name, the Region and your credentials",
            ) from error
        except BotoCoreError as error:
            if type(error).__name__ in ("NoCredentialsError", "NoRegionError", "PartialCredentialsError"):
                raise LedgerUnavailableError(
                    "credentials", "AWS cannot be asked", got=str(error), do="set credentials and a Region"
                ) from error
            if isinstance(
                error, NoConnectionError
            ):  # botocore has tried several times; a connection that broke later may have brought the request
                raise LedgerUnavailableError(
                    "unreachable",
                    "DynamoDB cannot be reached",
                    got=str(error),
                    do="check the network, the Region, a proxy (HTTPS_PROXY) and AWS_ENDPOINT_URL",
                ) from error
            return None


def _reasons(error: ClientError) -> set[str]:
    """What an error says: the reasons of a cancelled transaction, else the error's own code."""
    code = error.response["Error"]["Code"]
    if code != "TransactionCanceledException":
        return {code}
    return {reason.get("Code", "None") for reason in error.response.get("CancellationReasons", [])}
