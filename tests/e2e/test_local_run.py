"""An app's developer, with docs/runtime.md and one command: the app serves HTTP by its ingress, opens a secret by attestation, is started again, and ends."""

import base64
import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap makes the sandbox, and is not here"),
]
PROBE = Path(__file__).parent / "probe"
APP = """
import base64, http.server, json, os
from nitrokit.runtime import Kms

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/end":
            os._exit(request["code"])
        kms = Kms("us-east-1", request["credentials"])
        answer = str(len(kms.decrypt(base64.b64decode(request["ciphertext"]), request["key"]))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

server = http.server.HTTPServer(("127.0.0.1", 8080), Handler)
print("up", flush=True)
server.serve_forever()
"""


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "app"
    shutil.copytree(PROBE, folder)
    (folder / "app/main.py").write_text(APP)
    text = (folder / "enclave.toml").read_text()
    (folder / "enclave.toml").write_text(text.replace('"allowed.example.com"', '"kms.us-east-1.amazonaws.com"'))
    return folder


@pytest.fixture
def running(image):
    """What the command says of a running image, and its further lines, one by one."""
    command = [sys.executable, "-m", "nitrokit.cli", "local", "run", image, "--runner", "process", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        last_resort = threading.Timer(300, process.kill)
        assert process.stdout is not None and process.stderr is not None
        try:
            said = iter(process.stderr.readline, "")
            text = ""
            while not text.endswith("}\n}\n"):
                line = process.stdout.readline()
                assert line, "".join(said)
                text += line
            last_resort.start()
            yield process, json.loads(text), said
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            last_resort.cancel()


def _post(address, path, request):
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, json.dumps(request))
        return connection.getresponse().read()
    except (http.client.HTTPException, ConnectionError):
        return None
    finally:
        connection.close()


def test_an_image_runs_by_itself_until_its_app_is_done(running):
    process, found, said = running
    address = found["ingress"]["8080"]
    assert any(line == "up\n" for line in said)
    owner = found["owner"]
    kms = boto3.client(
        "kms", endpoint_url=owner["AWS_ENDPOINT_URL"], region_name=owner["AWS_REGION"], aws_access_key_id=owner["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=owner["AWS_SECRET_ACCESS_KEY"], aws_session_token=owner["AWS_SESSION_TOKEN"],
    )  # fmt: skip
    ciphertext = kms.encrypt(KeyId=found["key"], Plaintext=b"eleven long")["CiphertextBlob"]
    request = {"credentials": found["credentials"], "ciphertext": base64.b64encode(ciphertext).decode(), "key": found["key"]}
    assert _post(address, "/", request) == b"11"
    assert _post(address, "/end", {"code": 3}) is None
    assert [line for line in (next(said) for _ in range(2)) if "ended" in line] == ["nitrokit: the app ended with 3\n"]
    assert any(line == "up\n" for line in said), "started again, as enclave.toml says"
    assert _post(address, "/end", {"code": 0}) is None
    assert any("the enclave has ended" in line for line in said)
    assert process.wait(120) == 0
