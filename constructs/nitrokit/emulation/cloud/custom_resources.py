"""Custom resources: the function of ServiceToken gets a request, and answers by a PUT to ResponseURL, a place in S3.

Sources: CloudFormation User Guide "Custom resource request objects", "Custom resource response objects"; "AWS::CloudFormation::CustomResource" for ServiceTimeout and replacement.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nitrokit.emulation.cloud import wait_conditions

TYPE = "AWS::CloudFormation::CustomResource"
_LONGEST_WAIT = 3600  # seconds
_LARGEST_ANSWER = 4096  # bytes

Invoke = Callable[[Any, Any], tuple[str, bool, str]]
"""A function and its event; gives payload, whether it failed, logs."""


class Failed(BaseException):
    """A custom resource was refused. No Exception, which moto would take for a reason to ask again, three times."""


def is_custom(resource_type: str) -> bool:
    """Whether a template's type is one of these."""
    return resource_type == TYPE or resource_type.startswith("Custom::")


@dataclass(frozen=True)
class Provider:
    """Whoever answers. ``endpoint_url``: the cloud's own."""

    invoke: Invoke
    endpoint_url: Callable[[], str]

    def ask(self, account_id: str, region_name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The response object. Raises Failed when it says so, is none, or does not come in time."""
        from moto.awslambda.utils import get_backend

        function = get_backend(account_id, region_name).get_function(request["ResourceProperties"]["ServiceToken"])
        place = wait_conditions.place(f"cloudformation-custom-resource-response-{region_name.replace('-', '')}", account_id, region_name)
        event = {**request, "RequestId": str(uuid.uuid4()), "ResponseURL": f"{self.endpoint_url()}/{place}"}
        outcome: queue.Queue[tuple[str, bool, str]] = queue.Queue()
        threading.Thread(target=lambda: outcome.put(self.invoke(function, event)), daemon=True).start()
        answer = _checked(_wait(account_id, place, outcome, event), event)
        if answer["Status"] != "SUCCESS":
            raise _failed(event, f"Received response status [FAILED] from custom resource. Message returned: {answer.get('Reason')}")
        return answer


def _failed(event: Mapping[str, Any], message: str) -> Failed:
    return Failed(f"{event['LogicalResourceId']}: {message} (RequestId: {event['RequestId']})")


def _wait(account_id: str, place: str, outcome: queue.Queue[tuple[str, bool, str]], event: Mapping[str, Any]) -> bytes:
    """What is put there. A function that returns may have left the answer to others; one that fails is not waited for, as CloudFormation would."""
    from moto.s3.models import s3_backends

    backend, (bucket, key) = s3_backends[account_id]["aws"], place.split("/")
    end = time.monotonic() + float(event["ResourceProperties"].get("ServiceTimeout", _LONGEST_WAIT))
    while time.monotonic() < end:
        payload, failed = "", False
        with suppress(queue.Empty):
            payload, failed, _ = outcome.get(timeout=0.05)
        if (answer := backend.get_object(bucket, key)) is not None:
            return bytes(answer.value)
        if failed:
            raise _failed(event, f"the function failed and did not answer: {payload}")
    raise _failed(event, "CloudFormation did not receive a response from your Custom Resource.")


def _checked(body: bytes, event: Mapping[str, Any]) -> dict[str, Any]:
    if len(body) > _LARGEST_ANSWER:
        raise _failed(event, f"Response object is too long: {len(body)} bytes, at most {_LARGEST_ANSWER}.")
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("Status") not in ("SUCCESS", "FAILED"):
        raise _failed(event, "Invalid response object: neither SUCCESS nor FAILED.")
    if any(answer.get(name) != event[name] for name in ("StackId", "RequestId", "LogicalResourceId")):
        raise _failed(event, "Invalid response object: it answers another request.")
    if not answer.get("PhysicalResourceId") or not isinstance(answer["PhysicalResourceId"], str):
        raise _failed(event, "Invalid PhysicalResourceId.")
    return answer


def _strings(value: Any) -> Any:
    """Properties reach a function as strings."""
    if isinstance(value, dict):
        return {name: _strings(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_strings(inner) for inner in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


class _CustomResource:
    """Mixed into a type that does nothing."""

    provider: Provider

    def __init__(self, account_id: str, region_name: str, identity: Mapping[str, str], properties: Any) -> None:
        self._where, self._identity = (account_id, region_name), identity
        self._take("Create", properties)

    def _request(self, kind: str, properties: Any, **more: Any) -> dict[str, Any]:
        return self.provider.ask(*self._where, {"RequestType": kind, **self._identity, "ResourceProperties": properties, **more})

    def _take(self, kind: str, properties: Any, **more: Any) -> None:
        answer = self._request(kind, properties, **more)
        self._properties, self._id, self._data = properties, answer["PhysicalResourceId"], answer.get("Data") or {}

    def get_cfn_attribute(self, attribute_name: str) -> Any:
        if attribute_name not in self._data:
            raise ValueError(
                f"{self._identity['LogicalResourceId']}: Vendor response doesn't contain {attribute_name} attribute in object {self._id}"
            )
        return self._data[attribute_name]

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    def update(self, properties: Any) -> None:
        """Asked with other properties alone. What is replaced is deleted at once; CloudFormation does so when the whole update has gone well."""
        old_id, old = self._id, self._properties
        if properties == old:
            return
        self._take("Update", properties, PhysicalResourceId=old_id, OldResourceProperties=old)
        if self._id != old_id:
            self._request("Delete", old, PhysicalResourceId=old_id)

    def delete(self, account_id: str, region_name: str) -> None:
        self._request("Delete", self._properties, PhysicalResourceId=self._id)

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any
    ) -> Any:
        identity = {"StackId": named["StackId"], "ResourceType": named["ResourceType"], "LogicalResourceId": named["LogicalId"]}
        return cls(account_id, region_name, identity, _strings(cloudformation_json["Properties"]))

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> Any:
        original_resource.update(_strings(cloudformation_json["Properties"]))
        return original_resource


def custom_resource(base: Any, provider: Provider) -> Any:
    """The resource type, from one that does nothing."""
    return type("CustomResource", (_CustomResource, base), {"provider": provider})
