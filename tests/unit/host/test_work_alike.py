"""The agent, a real systemd and the work-alike of nitro-cli together: the enclave is the hello image in a sandbox."""

import json
import os
import time

import pytest
from realsystemd import Systemd, unavailable

STEPS = ("install", "image", "verify", "allocate", "run", "health")


@pytest.fixture
def machine(emulated_parent):
    """An emulated parent whose systemctl is real."""
    if reason := unavailable():
        pytest.skip(reason)
    instance, folder = emulated_parent
    shim = (folder / "bin/systemctl").read_text()
    # The allocator is the hardware's; all other units are systemd's own.
    (folder / "bin/allocator").write_text(shim.replace('"$@"', "restart nitro-enclaves-allocator.service"))
    (folder / "bin/allocator").chmod(0o755)
    for name in ("systemctl", "journalctl"):
        (folder / "bin" / name).unlink()
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/run/nitrokit-hardware/bin/allocator\n[Install]\nWantedBy=multi-user.target\n"
    (folder / "etc/systemd/system/nitro-enclaves-allocator.service").write_text(unit)
    # The work-alike's Python may lie in a home.
    drop_in = folder / "etc/systemd/system/nitrokit-enclave-hello.service.d/home.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nProtectHome=no\n")
    sandbox = [word for word in instance._sandbox() if word != "--unshare-user"]
    systemd = Systemd([*sandbox, "--ro-bind", str(folder / "etc/machine-id"), "/etc/machine-id"], folder)
    systemd.boot()
    environment = instance._environment({})
    systemd.run(["systemctl", "set-environment", *(f"{key}={value}" for key, value in environment.items())])
    yield lambda command, **more: systemd.run(["/bin/sh", "-c", command], env={**environment, **more}), instance
    systemd.cut()


def _wait(condition):
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_enclave_is_kept_up(machine, put_image):
    run, instance = machine
    for step in STEPS:
        done = run(f"python3 /opt/nitrokit/agent.pyz {step} --enclave hello", SSM_Config=put_image)
        assert done.returncode == 0, (step, done.stderr)
    assert json.loads(done.stdout)["attested"] is True
    (before,) = instance.hypervisor.describe()
    os.kill(before["ProcessID"], 9)
    active = lambda: run("systemctl is-active nitrokit-enclave-hello").stdout.strip() == "active"  # noqa: E731
    _wait(lambda: [one["EnclaveID"] for one in instance.hypervisor.describe()] not in ([], [before["EnclaveID"]]) and active())
    assert "agent/not-running" in run("journalctl --no-pager --output cat --unit nitrokit-enclave-hello").stdout
    assert run("systemctl stop nitrokit-enclave-hello").returncode == 0
    assert instance.hypervisor.describe() == []
