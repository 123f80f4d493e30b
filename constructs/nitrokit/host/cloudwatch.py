"""Lines to a CloudWatch log group, by the aws command: an app's output, what the agent did, and metrics in the embedded metric format."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List

from nitrokit.host.commands import aws
from nitrokit.host.config import AgentError, Config

_TIMEOUT = 20.0
# PutLogEvents takes 10,000 events and 1,048,576 bytes a call, 26 bytes of which each event costs (CloudWatch Logs API Reference).
_MAX_EVENTS, _MAX_BYTES, _EVENT_COST, _MAX_LINE = 2000, 900_000, 26, 200_000
NAMESPACE, HEALTHY, RESTARTS = "Nitrokit", "EnclaveHealthy", "AppRestarts"


class Stream:
    """One stream of the configuration's log group: ``<instance>/<enclave>/<kind>``. Without a group everything is dropped."""

    def __init__(self, config: Config, kind: str) -> None:
        self._group = config.log_group
        self._name = f"{os.environ.get('AWS_SSM_INSTANCE_ID', 'unknown')}/{config.name}/{kind}"

    def put(self, lines: List[str]) -> None:
        """Send lines, in as many calls as they need. Raises AgentError."""
        if not self._group:
            return
        events: List[Dict[str, Any]] = []
        size = 0
        for line in lines:
            line = line[:_MAX_LINE] or " "
            cost = len(line.encode()) + _EVENT_COST
            if events and (size + cost > _MAX_BYTES or len(events) == _MAX_EVENTS):
                self._send(events)
                events, size = [], 0
            events.append({"timestamp": int(time.time() * 1000), "message": line})
            size += cost
        if events:
            self._send(events)

    def _send(self, events: List[Dict[str, Any]]) -> None:
        stream = {"logGroupName": self._group, "logStreamName": self._name}
        request = {**stream, "logEvents": events}
        try:
            _put(request)
        except AgentError as error:
            if "ResourceNotFoundException" not in str(error.got):
                raise
            _make(stream)
            _put(request)


def _make(stream: Dict[str, Any]) -> None:
    """The agent's steps and the supervisor write into one stream, and may be about to make it at the same moment."""
    try:
        aws("logs", "create-log-stream", stream, "making the log stream", timeout=_TIMEOUT)
    except AgentError as error:
        if "ResourceAlreadyExistsException" not in str(error.got):
            raise


def _put(request: Dict[str, Any]) -> None:
    aws("logs", "put-log-events", request, "sending log lines", timeout=_TIMEOUT)


def metric(config: Config, values: Dict[str, float]) -> str:
    """A line in the embedded metric format, for the dimensions Enclave, and Enclave with InstanceId (CloudWatch User Guide "Embedded metric format")."""
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["Enclave"], ["Enclave", "InstanceId"]],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in values],
    }
    instance = os.environ.get("AWS_SSM_INSTANCE_ID", "unknown")
    head = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
        "Enclave": config.name,
        "InstanceId": instance,
    }
    return json.dumps({**head, **values})
