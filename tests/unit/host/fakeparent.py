"""A parent made of executable fakes: the agent runs as a file under the system's own Python, in a sandbox where every path it writes is ours; beside a real systemd where a test wants one."""

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from realsystemd import Systemd

from nitrokit.host.bundle import build_agent

_PARTS = (
    "etc/nitro_enclaves",
    "var/fake/s3",
    "var/fake/enclaves",
    "var/lib",
    "run/vsock",
    "opt/nitrokit",
    "bin",
    "site",
    "tmp",
    "sys/module/nitro_enclaves/parameters",
    "sys/kernel/mm",
)
_SHIM = Path(__file__).with_name("shim.py")
_FAKES = Path(__file__).with_name("fakes")
STEPS = ("install", "image", "verify", "allocate", "run", "health")
PYTHON = next((path for path in ("/usr/bin/python3",) if Path(path).exists()), sys.executable)
"""The system's own: units do not see homes."""
AGENT = "/opt/nitrokit/python3 /opt/nitrokit/agent.pyz"
_PASS = """import sys
sys.path.insert(0, "/opt/nitrokit/agent.pyz")
import sitecustomize
from nitrokit.host.agent import main
for step in sys.argv[1:]:
    sitecustomize.seen.clear()
    sys.argv = ["/opt/nitrokit/agent.pyz", step, "--enclave", "hello"]
    if code := main(sys.argv[1:]):
        sys.exit(code)
"""
BROKEN = "bb"
"""An image whose PCR0 begins so boots, and is never healthy."""


def image(mark):
    """An "EIF" of the fakes: its PCR0 in hex, and a rest."""
    return (mark * 48 + " the image").encode()


def configuration(mark="00", name="hello", cid=16, **changes):
    """A configuration for ``image(mark)``, as the SSM document's parameter."""
    data = image(mark)
    value = {
        "name": name, "image_uri": f"s3://bucket/{mark}.eif", "image_sha256": hashlib.sha256(data).hexdigest(), "measurements": pcrs(mark),
        "cpu_count": 2, "memory_mib": 256, "cid": cid, "proxies": [{"vsock_port": 8001, "host": "kms.us-east-1.amazonaws.com", "port": 443}], "healthy_within": 2,
    }  # fmt: skip
    return json.dumps({**value, **changes})


def pcrs(mark):
    return {"PCR0": mark * 48, "PCR1": "11" * 48, "PCR2": "22" * 48}


EIF = image("00")
DOCKER = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app@sha256:" + "ab" * 32


class FakeParent:
    """``folder`` holds its /etc, /var, /run, /opt, /sys; every program that it runs is in ``log``."""

    def __init__(self, folder):
        self.folder = folder
        for part in _PARTS:
            (folder / part).mkdir(parents=True)
        for path in _FAKES.iterdir():
            self.program(path.name, path.read_text())
        shutil.copy(_SHIM, folder / "site/sitecustomize.py")
        self.power_on()
        (folder / "opt/nitrokit/agent.pyz").write_bytes(build_agent())
        os.symlink(PYTHON, folder / "opt/nitrokit/python3")
        (folder / "var/fake/log").touch()
        for mark in ("00", "aa", BROKEN):
            self.put(f"{mark}.eif", image(mark))
        self.control = Control(folder)
        self.systemd: Systemd | None = None

    def power_on(self):
        """What a boot leaves of pool and enclaves: nothing."""
        (self.folder / "sys/module/nitro_enclaves/parameters/ne_cpus").write_text("\n")
        for kib in (1 << 20, 2048):
            path = self.folder / f"sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0\n")
        for path in (self.folder / "var/fake/enclaves").iterdir():
            path.unlink()

    def program(self, name, script):
        path = self.folder / "bin" / name
        path.write_text(script)
        path.chmod(0o755)

    def fault(self, name, value=""):
        """Put a fault in the way (see fakes/), or take it away."""
        path = self.folder / "var/fake" / f"fault-{name}"
        path.write_text(value) if value else path.unlink(missing_ok=True)

    @property
    def log(self):
        return (self.folder / "var/fake/log").read_text().splitlines()

    def put(self, name, data):
        (self.folder / "var/fake/s3" / name).write_bytes(data)

    def enclaves(self):
        return [json.loads(path.read_text()) for path in sorted((self.folder / "var/fake/enclaves").iterdir())]

    def sandbox(self):
        words = [
            "bwrap",
            "--die-with-parent",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--hostname",
            "parent",
            "--ro-bind",
            "/usr",
            "/usr",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
        ]
        for name in ("bin", "lib", "lib64", "sbin"):
            words += ["--symlink", f"usr/{name}", f"/{name}"]
        for name in ("etc", "var", "run", "opt", "sys", "tmp"):
            words += ["--bind", str(self.folder / name), f"/{name}"]
        for name in ("bin", "site"):
            words += ["--ro-bind", str(self.folder / name), f"/opt/{name}"]
        if not PYTHON.startswith("/usr/"):
            words += ["--ro-bind", sys.base_prefix, sys.base_prefix]
        return words

    def start(self, script, **environment):
        shell = ["/bin/sh", "-c", script]
        command = self.systemd.enter(shell) if self.systemd else [*self.sandbox(), "--chdir", "/", *shell]
        return subprocess.Popen(
            command,
            env={**self.environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self):
        return {
            "PATH": f"/opt/bin:{Path(PYTHON).parent}:/usr/sbin:/usr/bin",
            "PYTHONPATH": "/opt/site",
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def run(self, script, **environment):
        process = self.start(script, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def agent(self, arguments, **environment):
        return self.run(f"exec {AGENT} {arguments}", **environment)

    def step(self, step, config=None, name="hello", **environment):
        return self.agent(f"{step} --enclave {name}", SSM_Config=config or configuration(), **environment)

    def steps(self, config=None, steps=STEPS, name="hello"):
        """Run steps until one fails: its result, or the last one's."""
        for step in steps:
            done = self.step(step, config, name)
            if done.returncode:
                break
        return done

    def pass_through(self, config, steps=STEPS):
        """``steps`` in one process: quicker, and no other."""
        return self.run(f"exec /opt/nitrokit/python3 -c '{_PASS}' {' '.join(steps)}", SSM_Config=config)

    def up(self, config=None, steps=STEPS, name="hello"):
        done = self.steps(config, steps, name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def boot(self):
        """Start systemd; what it keeps up sees the fakes too."""
        if self.systemd is None:
            manager = self.folder / "etc/systemd/system.conf.d/environment.conf"
            manager.parent.mkdir(parents=True, exist_ok=True)
            manager.write_text(
                "[Manager]\nDefaultEnvironment=" + " ".join(f"{key}={value}" for key, value in self.environment().items()) + "\n"
            )
            unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/opt/bin/allocator\n[Install]\nWantedBy=multi-user.target\n"
            (self.folder / "etc/systemd/system").mkdir(exist_ok=True)
            (self.folder / "etc/systemd/system/nitro-enclaves-allocator.service").write_text(unit)
            (self.folder / "bin/systemctl").unlink()
            self.systemd = Systemd(self.sandbox(), self.folder)
        self.systemd.boot()

    def cut(self):
        """The power goes."""
        assert self.systemd is not None
        self.systemd.cut()
        self.power_on()

    def close(self):
        self.control.close()
        if self.systemd:
            self.systemd.cut()


class Control:
    """The control servers of all fake enclaves, CIDs 16 to 19; ``answers`` replaces them by raw bytes; ``lied``: nitro-cli shows what does not run."""

    def __init__(self, folder):
        self._folder = folder
        self.answers = {}
        self.lied = False
        self.lines = []
        self._listeners = [self._listen(cid) for cid in range(16, 20)]

    def _listen(self, cid):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._folder / f"run/vsock/{cid}_5001"))
        listener.listen(16)
        threading.Thread(target=self._serve, args=(listener, cid), daemon=True).start()
        return listener

    def _serve(self, listener, cid):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection, cid), daemon=True).start()

    def _answer(self, connection, cid):
        with connection, suppress(OSError, ValueError, struct.error):
            (size,) = struct.unpack(">I", connection.recv(4))
            request = json.loads(connection.recv(size))
            if cid in self.answers:
                connection.sendall(self.answers[cid])
                return
            running = [json.loads(path.read_text()) for path in (self._folder / "var/fake/enclaves").iterdir()]
            found = [one for one in running if one["EnclaveCID"] == cid]
            if found:
                connection.sendall(frame(self._of(found[0], request)))

    def _of(self, enclave, request):
        values = [enclave["Measurements"][name] for name in ("PCR0", "PCR1", "PCR2")]
        if enclave["Flags"] == "DEBUG_MODE" or self.lied:
            values = ["00" * 48] * 3
        if request["op"] == "attest":
            return {"document": base64.b64encode(base64.b64decode(request["nonce"]) + bytes.fromhex("".join(values))).decode()}
        if request["op"] == "logs":
            since = request["since"]
            return {"lines": self.lines[since:], "next": len(self.lines), "dropped": 0} if self.lines else {"error": {"code": "no-logs"}}
        return {"status": "ok", "app": "ended with 1" if values[0].startswith(BROKEN) else "running", "ready": True, "restarts": 0}

    def close(self):
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def frame(value):
    return struct.pack(">I", len(json.dumps(value))) + json.dumps(value).encode()


def short_folder(tag):
    # A short path: unix sockets take 108 bytes.
    return Path("/tmp") / f"nk{tag}{os.getpid()}"


def pretend_running(parent, mark="00", **changes):
    """As if the run step had been done."""
    enclave = {
        "EnclaveName": "hello", "EnclaveID": "i-1-enc1", "EnclaveCID": 16, "NumberOfCPUs": 2, "MemoryMiB": 256, "State": "RUNNING", "Flags": "NONE", "Measurements": pcrs(mark),
    }  # fmt: skip
    (parent.folder / "etc/nitrokit").mkdir(exist_ok=True)
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration(mark))
    (parent.folder / "var/fake/enclaves/hello.json").write_text(json.dumps({**enclave, **changes}) + "\n")


def published(parent):
    """What was told of the enclave's state last: the parameter's value and the compliance item."""
    told = [json.loads(line) for line in (parent.folder / "var/fake/published").read_text().splitlines() if line.startswith("{")]
    values = [json.loads(one["Value"]) for one in told if "Value" in one]
    items = [one["Items"][0] for one in told if "Items" in one]
    return (values[-1]["status"], items[-1]["Status"]) if values and items else None


def kill_when_hanging(parent, step):
    process = parent.start(f"exec {AGENT} {step} --enclave hello", SSM_Config=configuration())
    deadline = time.monotonic() + 90
    while not (parent.folder / "var/fake/hanging").exists():
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()


def changed_agent(agent, module, before, after):
    """The agent with one place of its source another."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(agent)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            text = source.read(name)
            if name.endswith(module):
                assert before in text
                text = text.replace(before, after)
            target.writestr(name, text)
    return buffer.getvalue()
