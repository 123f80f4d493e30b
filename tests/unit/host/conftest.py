"""A parent made of executable fakes: the agent runs as a file under the system's own Python, in a sandbox where every path it writes is ours."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nitrokit.host.bundle import build_agent

_LOG = 'echo "$(basename "$0") $*" >> /var/fake/log\n'
_FAKES = {
    # "aws s3 cp --only-show-errors FROM TO"; FAULT_AWS: torn (half of it), hang (half of it, and then nothing), fail.
    "aws": _LOG
    + """from=/var/fake/s3/$(basename "$4")
case "${FAULT_AWS:-}" in
  fail) echo 'fatal error: An error occurred (403) when calling the HeadObject operation: Forbidden' >&2; exit 1 ;;
  torn) head -c 10 "$from" > "$5" ;;
  hang) head -c 10 "$from" > "$5"; touch /var/fake/hanging; sleep 100 ;;
  *) cp "$from" "$5" ;;
esac
""",
    # FAULT_SYSTEMCTL: lie (success without a pool), hang.
    "systemctl": _LOG
    + """[ "$*" = "restart nitro-enclaves-allocator.service" ] || exit 0
case "${FAULT_SYSTEMCTL:-}" in
  lie) ;;
  hang) touch /var/fake/hanging; sleep 100 ;;
  *) sed -n 's/cpu_count: 2/2-3/p' /etc/nitro_enclaves/allocator.yaml > /sys/module/nitro_enclaves/parameters/ne_cpus ;;
esac
""",
    "dnf": _LOG + "echo 'Error: Cannot download repomd.xml' >&2; exit 1\n",
    # FAULT_RUN: an E-code, or E29*3 (three times), hang; FAULT_JSON: prints no JSON.
    "nitro-cli": _LOG
    + """enclaves=/var/fake/enclaves
[ -n "${FAULT_JSON:-}" ] && { echo 'Start allocating memory...'; exit 0; }
case "$1" in
  describe-eif) echo '{"Measurements": {"PCR0": "'$(head -c 96 "$3")'", "PCR1": "'$(printf '11%.0s' $(seq 48))'", "PCR2": "'$(printf '22%.0s' $(seq 48))'"}}' ;;
  describe-enclaves) echo "[$(cat $enclaves 2>/dev/null)]" ;;
  terminate-enclave) rm -f $enclaves; echo '{"Terminated": true}' ;;
  run-enclave)
    count=$(grep -c run-enclave /var/fake/log)
    case "${FAULT_RUN:-}" in
      'E29*3') [ "$count" -le 3 ] && { echo '[ E29 ] Ioctl failure' >&2; exit 39; } ;;
      hang) touch /var/fake/hanging; sleep 100 ;;
      E*) echo "[ $FAULT_RUN ] something failed" >&2; exit 39 ;;
    esac
    [ -e /var/fake/launching ] && { echo '[ E36 ] Enclave boot failure' >&2; exit 39; }
    touch /var/fake/launching; sleep 0.3; rm /var/fake/launching
    pcrs=$(nitro-cli describe-eif --eif-path "$3")
    echo '{"EnclaveName": "hello", "EnclaveID": "i-1-enc1", "EnclaveCID": 16, "NumberOfCPUs": 2, "MemoryMiB": 256, "State": "RUNNING", "Flags": "NONE", '"${pcrs#?}" > $enclaves
    cat $enclaves ;;
esac
""",
}
_VSOCK = """import socket
_real = socket.socket
class _Vsock(_real):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        self._vsock = family == socket.AF_VSOCK
        super().__init__(socket.AF_UNIX if self._vsock else family, type, proto, fileno)
    def connect(self, address):
        super().connect("/run/vsock/%d_%d" % address if self._vsock else address)
socket.socket = _Vsock
"""


class FakeParent:
    """``folder`` holds its /etc, /var, /run, /opt; every program that it runs is in ``log``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in (
            "etc",
            "var/fake/s3",
            "var/lib",
            "run/vsock",
            "opt/nitrokit",
            "bin",
            "site",
            "sys/module/nitro_enclaves/parameters",
            "tmp",
        ):
            (folder / part).mkdir(parents=True)
        for name, script in _FAKES.items():
            self.program(name, script)
        (folder / "site/sitecustomize.py").write_text(_VSOCK)
        (folder / "sys/module/nitro_enclaves/parameters/ne_cpus").write_text("\n")
        (folder / "opt/nitrokit/agent.pyz").write_bytes(build_agent())
        (folder / "var/fake/log").touch()

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)

    @property
    def log(self) -> list[str]:
        return (self.folder / "var/fake/log").read_text().splitlines()

    def put(self, name: str, data: bytes) -> None:
        (self.folder / "var/fake/s3" / name).write_bytes(data)

    def command(self, script: str) -> list[str]:
        words = ["bwrap", "--die-with-parent", "--unshare-pid", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for name in ("etc", "var", "run", "opt", "sys", "tmp"):
            words += ["--bind", str(self.folder / name), f"/{name}"]
        for name in ("bin", "site"):
            words += ["--ro-bind", str(self.folder / name), f"/tmp/{name}"]
        for path in {sys.base_prefix} - {"/usr"}:
            words += ["--ro-bind", path, path]
        return [*words, "--chdir", "/", "/bin/sh", "-c", script]

    def start(self, script: str, **environment: str) -> "subprocess.Popen[str]":
        (self.folder / "tmp/bin").mkdir(exist_ok=True)
        (self.folder / "tmp/site").mkdir(exist_ok=True)
        python = Path(sys.base_prefix) / "bin"
        variables = {
            "PATH": f"/tmp/bin:{python}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": "/tmp/site",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        return subprocess.Popen(
            self.command(script), env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(script, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def agent(self, arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self.run(f"exec python3 /opt/nitrokit/agent.pyz {arguments}", **environment)


@pytest.fixture
def fake_parent(tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    # A short path: unix sockets take 108 bytes.
    folder = Path("/tmp") / f"nkf{os.getpid()}"
    yield FakeParent(folder)
    shutil.rmtree(folder)


@pytest.fixture
def answer_on():
    """A thread that answers frames on a fake enclave's port."""
    listeners: list[socket.socket] = []

    def serve(parent: FakeParent, port: int, answer: bytes) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(parent.folder / f"run/vsock/16_{port}"))
        listener.listen()
        listeners.append(listener)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    (size,) = struct.unpack(">I", connection.recv(4))
                    json.loads(connection.recv(size))
                    connection.sendall(answer)

        threading.Thread(target=loop, daemon=True).start()

    yield serve
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def frame():
    return lambda value: struct.pack(">I", len(json.dumps(value))) + json.dumps(value).encode()
