"""The fast tracer, received by a daemon played with a real socket, beside what the X-Ray SDK sends for the same work."""

import json
import socket
import subprocess
import sys

import pytest
from aws_lambda_powertools import Tracer

from nitrokit.handlers.tracing import fast_tracer

ROOT, PARENT = "1-5759e988-bd862e3fe1be46a994272793", "53995c3f42cd8ad8"


@pytest.fixture
def daemon(monkeypatch):
    """The documents that arrive."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        monkeypatch.setenv("AWS_XRAY_DAEMON_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("_X_AMZN_TRACE_ID", f"Root={ROOT};Parent={PARENT};Sampled=1;Lineage=1:a:0")

        def receive():
            header, _, document = listening.recv(65_536).partition(b"\n")
            assert json.loads(header) == {"format": "json", "version": 1}
            return json.loads(document)

        yield listening, receive


def _traced(tracer):
    @tracer.capture_lambda_handler(capture_response=False)
    def handler(event, context):
        del context
        if "fail" in event:
            raise ValueError(event["fail"])
        return {}

    return handler


def test_a_subsegment_of_the_handler_arrives_within_the_invocations_trace(daemon):
    _, receive = daemon
    _traced(fast_tracer("verify"))({}, None)
    document = receive()
    assert (document["trace_id"], document["parent_id"], document["type"]) == (ROOT, PARENT, "subsegment")
    assert document["name"].startswith("## ")
    assert document["annotations"]["Service"] == "verify"
    assert isinstance(document["annotations"]["ColdStart"], bool)
    assert document["start_time"] <= document["end_time"]
    assert "fault" not in document


def test_a_failure_is_a_fault_with_its_cause_and_is_raised(daemon):
    _, receive = daemon
    with pytest.raises(ValueError, match="no document"):
        _traced(fast_tracer("verify"))({"fail": "no document"}, None)
    document = receive()
    (told,) = document["cause"]["exceptions"]
    assert (document["fault"], told["type"], told["message"]) == (True, "ValueError", "no document")
    assert told["stack"][-1]["label"] == "handler"


_BY_THE_SDK = """
import sys
from aws_lambda_powertools import Tracer
tracer = Tracer(service="verify", auto_patch=False)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event, context):
    if event: raise ValueError("no document")
try: handler(len(sys.argv) > 1, None)
except ValueError: pass
"""


@pytest.mark.parametrize("fails", [False, True])
def test_the_document_has_the_fields_that_the_sdks_has(daemon, fails):
    """The SDK in a process of its own, as it is in Lambda."""
    _, receive = daemon
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMBDA_TASK_ROOT", "/var/task")
        subprocess.run([sys.executable, "-c", _BY_THE_SDK, *["x"][:fails]], check=True, capture_output=True)
    theirs = receive()
    handler = _traced(fast_tracer("verify"))
    if fails:
        with pytest.raises(ValueError, match="no document"):
            handler({"fail": "no document"}, None)
    else:
        handler({}, None)
    ours = receive()
    assert theirs.pop("namespace") == "local"  # the guide has no such value
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    if fails:
        (mine,), (other,) = ours["cause"]["exceptions"], theirs["cause"]["exceptions"]
        assert {name: type(value) for name, value in mine.items()} == {name: type(value) for name, value in other.items()}
        assert {*mine["stack"][0]} == {*other["stack"][0]}


@pytest.mark.parametrize(
    "change", [{"_X_AMZN_TRACE_ID": f"Root={ROOT};Parent={PARENT};Sampled=0"}, {"_X_AMZN_TRACE_ID": ""}, {"_X_AMZN_TRACE_ID": "nonsense"}]
)
def test_what_is_not_sampled_is_not_sent(daemon, monkeypatch, change):
    listening, _ = daemon
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    _traced(fast_tracer("verify"))({}, None)
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.recv(65_536)


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1:x", "127.0.0.1:1"])
def test_a_daemon_that_is_not_there_is_in_nobodys_way(daemon, monkeypatch, address):
    monkeypatch.setenv("AWS_XRAY_DAEMON_ADDRESS", address)
    assert _traced(fast_tracer("verify"))({}, None) == {}


def test_other_tracers_of_the_process_keep_their_provider():
    fast_tracer("verify")
    assert Tracer._config["provider"] is None or "aws_xray_sdk" in Tracer._config["provider"].__module__
