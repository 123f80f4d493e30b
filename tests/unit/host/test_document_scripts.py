"""The SSM document's own script, which brings the agent; and what CloudFormation is told of how it goes."""

import hashlib
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fakeparent import changed_agent, configuration, pretend_running

from nitrokit.host.bundle import MODULES, build_agent
from nitrokit.host.renderer import render_document


@pytest.fixture
def parent(fake_parent):
    return fake_parent


# The SSM document's own script


def _script(step, template="bootstrap.json.j2"):
    (found,) = [one for one in render_document(template, name="hello")["mainSteps"] if one["name"] == step]
    return "\n".join(found["inputs"]["runCommand"])


def _variables(**changes):
    agent = build_agent()
    return {
        "SSM_Config": configuration(),
        "SSM_AgentUri": "s3://bucket/agent.pyz",
        "SSM_AgentSha256": hashlib.sha256(agent).hexdigest(),
        "AWS_SSM_REGION_NAME": "eu-west-1",
        "AWS_DEFAULT_REGION": "",
        **changes,
    }


def _copying_aws(parent):
    parent.program("aws", '#!/bin/sh\necho "region $AWS_DEFAULT_REGION" >> /var/fake/log; cp "/var/fake/s3/$(basename "$4")" "$5"\n')


def test_the_document_brings_the_agent_and_runs_it(parent):
    parent.put("agent.pyz", build_agent())
    (parent.folder / "opt/nitrokit/agent.pyz").unlink()
    (parent.folder / "opt/nitrokit/python3").unlink()
    _copying_aws(parent)
    done = parent.run(_script("install"), **_variables())
    assert done.returncode == 0, done.stderr
    assert parent.log[0] == "region eu-west-1"
    assert sorted(path.name for path in (parent.folder / "opt/nitrokit").iterdir()) == ["agent.pyz", "python3"]


def test_an_agent_with_another_hash_never_runs(parent):
    parent.put("agent.pyz", b"import os; open('/var/fake/ran', 'w')")
    _copying_aws(parent)
    before = (parent.folder / "opt/nitrokit/agent.pyz").read_bytes()
    refused = parent.run(_script("install"), **_variables())
    assert refused.returncode != 0
    assert "not the one deployed" in refused.stderr
    assert not (parent.folder / "var/fake/ran").exists()
    assert (parent.folder / "opt/nitrokit/agent.pyz").read_bytes() == before
    assert not list((parent.folder / "opt/nitrokit").glob(".agent*"))


def test_a_python_that_is_too_old_is_passed_over_or_told(parent):
    parent.put("agent.pyz", build_agent())
    _copying_aws(parent)
    parent.program("python3", "#!/bin/sh\nexit 1\n")
    parent.program("python3.9", f'#!/bin/sh\nexec {os.path.realpath("/usr/bin/python3")} "$@"\n')
    for other in ("python3.13", "python3.12", "python3.11", "python3.10"):
        parent.program(other, "#!/bin/sh\nexit 1\n")
    assert parent.run(_script("install"), **_variables()).returncode == 0
    assert os.readlink(parent.folder / "opt/nitrokit/python3") == "/opt/bin/python3.9"
    parent.program("python3.9", "#!/bin/sh\nexit 1\n")
    refused = parent.run(_script("install"), **_variables())
    assert "Python 3.9 or newer" in refused.stderr


def test_an_ssm_agent_without_env_var_parameters_is_told_so(parent):
    refused = parent.run(_script("install"), AWS_SSM_REGION_NAME="eu-west-1")
    assert "3.3.2746.0" in refused.stderr
    assert parent.log == []


def test_the_bundle_is_what_the_agent_imports(parent):
    code = "import sys; sys.path.insert(0, '/opt/nitrokit/agent.pyz'); import nitrokit.host.agent; "
    code += "print(*[m.__file__.split('.pyz/nitrokit/')[1] for n, m in sys.modules.items() if n.split('.')[0] == 'nitrokit'])"
    done = parent.run(f'python3 -c "{code}"')
    assert done.stderr == ""
    assert set(done.stdout.split()) == set(MODULES)


# What CloudFormation is told


@pytest.fixture
def signals():
    """A server as S3 is one to presigned addresses; what it got, with the content type."""
    got: list[tuple[str | None, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            got.append((self.headers.get("Content-Type"), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/signal?X-Amz-Signature=s", got
    server.shutdown()
    server.server_close()


def test_a_failing_step_tells_cloudformation_its_cause_and_health_that_all_is_well(parent, signals):
    url, got = signals
    environment = {"SSM_Signal": url, "AWS_SSM_INSTANCE_ID": "i-1"}
    parent.fault("aws", "fail")
    parent.step("install", **environment)
    assert got == []
    parent.step("image", **environment)
    pretend_running(parent)
    parent.step("health", **environment)
    assert [(kind, one["Status"], one["UniqueId"]) for kind, one in got] == [("", "FAILURE", "i-1.hello"), ("", "SUCCESS", "i-1.hello")]
    assert got[0][1]["Reason"].startswith(
        "image: finding the image failed: S3 or KMS refuses it [agent/image-denied]; got: An error occurred (403)"
    )
    assert got[1][1]["Data"] == "i-1-enc1"


def test_a_disk_that_fails_is_told_too(parent, signals):
    url, got = signals
    (parent.folder / "etc/nitrokit").write_text("a file where the folder should be")
    refused = parent.step("install", SSM_Signal=url, AWS_SSM_INSTANCE_ID="i-1")
    assert (refused.returncode, "[agent/file]" in refused.stderr) == (1, True)
    assert [(one["Status"], "[agent/file]" in one["Reason"]) for _, one in got] == [("FAILURE", True)]


def test_a_fault_of_the_agents_own_is_told_too(parent, signals):
    url, got = signals
    path = parent.folder / "opt/nitrokit/agent.pyz"
    path.write_bytes(changed_agent(path.read_bytes(), "host/packages.py", b"shutil.which", b"shutil.whither"))
    refused = parent.step("install", SSM_Signal=url, AWS_SSM_INSTANCE_ID="i-1")
    assert (refused.returncode, "[agent/internal]" in refused.stderr, "Traceback" in refused.stderr) == (3, True, False)
    assert [(one["Status"], "whither" in one["Reason"]) for _, one in got] == [("FAILURE", True)]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("no-object", "An error occurred (403) when calling"), ("hash", "is not the one deployed"), ("python", "Python 3.9 or newer is needed"), ("disk", "cannot keep the host agent")],
)  # fmt: skip
def test_what_fails_before_there_is_an_agent_is_told_too(parent, signals, fault, cause):
    url, got = signals
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Amazon Linux has it)")
    parent.put("agent.pyz", b"another" if fault == "hash" else build_agent())
    _copying_aws(parent)
    if fault == "no-object":
        parent.program("aws", "#!/bin/sh\nprintf 'An error occurred (403) when calling \\\\ \"Head\"\\n\\tForbidden' >&2; exit 1\n")
    if fault == "python":
        for name in ("python3", *(f"python3.{minor}" for minor in range(9, 14))):
            parent.program(name, "#!/bin/sh\nexit 1\n")
    if fault == "disk":
        parent.program("mktemp", "#!/bin/sh\nexit 1\n")
    refused = parent.run(_script("install"), **_variables(SSM_Signal=url, AWS_SSM_INSTANCE_ID="i-1"))
    assert refused.returncode == 1
    assert cause in refused.stderr
    assert ("kms:Decrypt on the key" in refused.stderr) == (fault == "no-object")
    ((_, told),) = got
    assert (told["Status"], told["UniqueId"], cause in told["Reason"]) == ("FAILURE", "i-1.hello", True)
    assert not list((parent.folder / "opt/nitrokit").glob(".agent*"))


def test_nobody_who_waits_is_no_failure(parent):
    pretend_running(parent)
    done = parent.step("health", SSM_Signal="http://127.0.0.1:9/x?X-Amz-Signature=secret")
    assert done.returncode == 0
    assert "was not told" in done.stderr
    assert "secret" not in done.stderr
