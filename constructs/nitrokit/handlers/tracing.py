"""Tracing for functions that must start fast: what Powertools' Tracer asks of X-Ray, without the X-Ray SDK, whose import alone takes longer than all else that verifying needs.

Sources: X-Ray Developer Guide "Sending segment documents" (a header line and a document in one UDP datagram to the daemon) and "Segment documents"; AWS Lambda Developer Guide "Defined
runtime environment variables" (_X_AMZN_TRACE_ID, of the invocation; AWS_XRAY_DAEMON_ADDRESS). Where either is missing, or the request is not sampled, nothing is sent.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from aws_lambda_powertools import Tracer

if TYPE_CHECKING:
    from aws_lambda_powertools.tracing.base import BaseProvider

_HEADER = b'{"format":"json","version":1}\n'


class Subsegment:
    """One piece of work in a trace; ``document`` is what X-Ray gets of it."""

    def __init__(self, name: str, trace_id: str, parent_id: str) -> None:
        self.document: dict[str, Any] = {
            "name": name, "id": secrets.token_hex(8), "trace_id": trace_id, "parent_id": parent_id, "type": "subsegment", "start_time": time.time(), "in_progress": False,
        }  # fmt: skip

    def put_annotation(self, key: str, value: str | float | bool) -> None:
        """What traces can be searched for by."""
        self.document.setdefault("annotations", {})[key] = value

    def put_metadata(self, key: str, value: Any, namespace: str = "default") -> None:
        """What can be read in the trace."""
        self.document.setdefault("metadata", {}).setdefault(namespace, {})[key] = value

    def add_exception(self, error: BaseException) -> None:
        """The work failed by this."""
        stack = [
            {"path": Path(frame.filename).name, "line": frame.lineno, "label": frame.name}
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        told = {"id": secrets.token_hex(8), "message": str(error), "type": type(error).__name__, "remote": False, "stack": stack}
        self.document |= {"fault": True, "cause": {"working_directory": str(Path.cwd()), "exceptions": [told]}}


class Daemon:
    """A provider of Powertools' Tracer: its handler's subsegment, by datagram."""

    @contextmanager
    def in_subsegment(self, name: str, **_: Any) -> Iterator[Subsegment]:
        """Time what is done inside, and send it; a daemon that is not there keeps nobody from their work."""
        header = dict(part.split("=", 1) for part in os.environ.get("_X_AMZN_TRACE_ID", "").split(";") if "=" in part)
        subsegment = Subsegment(name, header.get("Root", ""), header.get("Parent", ""))
        try:
            yield subsegment
        except BaseException as error:
            subsegment.add_exception(error)
            raise
        finally:
            subsegment.document["end_time"] = time.time()
            address = os.environ.get("AWS_XRAY_DAEMON_ADDRESS")
            if address and header.get("Sampled") == "1":
                _send(address, subsegment.document)


def _send(address: str, document: dict[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)
        connection.sendto(_HEADER + json.dumps(document, default=str).encode(), (host, int(port)))


class _FastTracer(Tracer):
    """With a configuration of its own: Powertools shares one among all Tracers of a process."""

    _config: ClassVar[dict[str, Any]] = {"service": "", "disabled": False, "auto_patch": False, "patch_modules": None, "provider": None}


def fast_tracer(service: str) -> Tracer:
    """A Tracer that imports nothing. It is never switched off, which would need the SDK too: it sends only what Lambda samples."""
    return _FastTracer(service=service, disabled=False, auto_patch=False, provider=cast("BaseProvider", Daemon()))
