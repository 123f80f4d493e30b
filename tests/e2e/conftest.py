"""Enclaves under QEMU: parents that launch them, the probe image, and how a program on the parent talks to them."""

import contextlib
import json
import os
import shutil
import socket
import struct
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

PROBE = Path(__file__).parent / "probe"
ROLE = "arn:aws:iam::123456789012:role/host"
INSTANCE = "i-0123456789abcdef0"


@pytest.fixture(scope="session")
def qemu_at():
    """A QEMU whose enclaves wake up at another time: the parent's clock is an attacker's."""
    with contextlib.ExitStack() as stack:

        def make(base):
            real = Path(shutil.which(os.environ.get("NITROKIT_QEMU") or "qemu-system-x86_64") or "qemu-system-x86_64").resolve()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nq")))
            wrapper = folder / real.name
            wrapper.write_text(
                f'#!/bin/sh\ncase " $* " in *" -kernel "*) set -- "$@" -rtc base={base} -L "{real.parent}";; esac\nexec "{real}" "$@"\n'
            )
            wrapper.chmod(0o755)
            return str(wrapper)

        yield make


class Guest:
    """A running enclave, as its parent sees it."""

    def __init__(self, hypervisor, description):
        self._hypervisor = hypervisor
        self.cid, self.enclave_id = description["EnclaveCID"], description["EnclaveID"]
        self.vsock = hypervisor.vsock

    def connect(self, port, timeout=60):
        """A vsock connection. Raises ConnectionRefusedError where nobody listens."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(str(self.vsock / f"{self.cid}.sock"))
        connection.sendall(b"CONNECT %d\n" % port)
        line = b""
        while not line.endswith(b"\n"):
            if not (byte := connection.recv(1)):
                connection.close()
                raise ConnectionRefusedError(port)
            line += byte
        return connection

    def ask(self, port=5001, timeout=60, **request):
        with self.connect(port, timeout) as connection:
            data = json.dumps(request).encode()
            connection.sendall(struct.pack(">I", len(data)) + data)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return json.loads(answer[4:])

    def health(self, **expected):
        """The health that has what is expected, waited for."""
        deadline, health = time.monotonic() + 90, None
        while True:
            with contextlib.suppress(OSError, ValueError):
                health = self.ask(timeout=20, op="health")
                if expected.items() <= health.items():
                    return health
            assert self.alive(), self._hypervisor.consoles()
            assert time.monotonic() < deadline, (health, self._hypervisor.consoles())
            time.sleep(0.05)

    def run(self, text):
        """Run Python in the app; what it calls ``result``."""
        self.wait_for_app()
        answer = self.ask(5000, run=text)
        assert "result" in answer, answer
        return answer["result"]

    def end_app(self, text):
        """Run Python in the app that ends it; the connection ends with it."""
        with contextlib.suppress(OSError, ValueError):
            self.run(text)

    def wait_for_app(self, port=5000):
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect(port).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.logs()
                time.sleep(0.05)

    def logs(self, since=0, wait=0):
        return self.ask(op="logs", since=since, wait=wait)

    def wait_for_line(self, part, since=0):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self.logs(since, wait=1)
            if found := [line for line in answer["lines"] if part in line]:
                return found[0]
            since = answer["next"]
        raise AssertionError(f"no line has {part!r}")

    def alive(self):
        return any(one["EnclaveID"] == self.enclave_id for one in self._hypervisor.describe())

    def wait_for_end(self):
        deadline = time.monotonic() + 60
        while self.alive():
            assert time.monotonic() < deadline, self._hypervisor.consoles()
            time.sleep(0.1)


class Parent:
    """An emulated parent instance's hypervisor, which launches images."""

    def __init__(self, folder, pki, qemu=None):
        from nitrokit.emulation.nitro.hypervisor import Hypervisor
        from nitrokit.emulation.nitro.runners import choose_runner

        environment = {**os.environ, **({"NITROKIT_QEMU": qemu} if qemu else {})}
        runner = choose_runner(environment, "qemu")
        self.pki = pki
        self.hypervisor = Hypervisor(
            folder, instance_id=INSTANCE, role_arn=ROLE, pki=pki, tls_authorities="", runner=runner, now=lambda: datetime.now(UTC)
        )
        self.hypervisor.allocate(cpu_count=8, memory_mib=8192)

    @contextlib.contextmanager
    def boot(self, eif, *, memory_mib=512, port=5000):
        """An enclave whose app runs and listens on a vsock port; ended at the end."""
        with eif.open("rb") as file:
            guest = Guest(
                self.hypervisor, self.hypervisor.run(file, cpu_count=2, memory_mib=memory_mib, cid=None, name=eif.stem, debug=False)
            )
        try:
            guest.health(app="running")
            guest.wait_for_app(port)
            yield guest
        finally:
            with contextlib.suppress(Exception):
                self.hypervisor.terminate(enclave_id=guest.enclave_id)


@pytest.fixture(scope="session")
def make_parent(pki):
    # Short names: unix socket paths have 108 bytes at most.
    with contextlib.ExitStack() as stack:

        def make(qemu=None):
            parent = Parent(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="np"))), pki, qemu)
            stack.callback(parent.hypervisor.close)
            return parent

        yield make


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """The probe image, with changes of its enclave.toml: text → other text, and files beside it. Built once for each."""
    from nitrokit.image.build import build_image
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import find_kernel
    from nitrokit.image.signing import here

    cache, built = cache_dir(os.environ), {}

    def make(*changes, files=()):
        if changes not in built:
            folder = tmp_path_factory.mktemp("image") / "probe"
            shutil.copytree(PROBE, folder)
            text = (folder / "enclave.toml").read_text()
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
            (folder / "enclave.toml").write_text(text)
            for file in files:
                shutil.copy(file, folder)
            kernel = find_kernel(os.environ, cache, lambda _: None)
            output = folder.with_suffix(".eif")
            built[changes] = build_image(folder, kernel=kernel, output=output, cache=cache, progress=lambda _: None, sign_with=here())
        return built[changes]

    return make


@pytest.fixture(scope="module")
def parent(make_parent):
    return make_parent()


@pytest.fixture(scope="module")
def guest(parent, probe):
    """One enclave for all tests that leave it as it was."""
    with parent.boot(probe().eif) as guest:
        yield guest
