"""What an operator on a parent is told who types something wrong."""

import os
import shutil
import subprocess

import pytest
from emulatedparent import hello_configuration
from fakeparent import short_folder

from nitrokit.host.bundle import build_agent

STEPS = ("install", "image", "verify", "allocate", "run", "health")
WRONG = {
    "health --enclave helo": (1, "[agent/no-config]", "(on this parent: hello); do: run the install step first"),
    "attest --enclave hello --nonce %%%": (1, "[agent/no-document]", "frame/nonce"),
    "attest --enclave hello --nonce A --nonce-for instance": (1, "[agent/nonce]", "base64 of 16 to 64 bytes"),
    "logs --enclave hello --since -5": (2, "--since: -5 is out of range; expected 0 or more", ""),
    "ask --enclave hello --port 4294967295": (2, "--port: 4294967295 is out of range; expected 1 to 4294967294", ""),
    "ask --enclave hello --port kms": (2, "--port: kms is not a whole number", ""),
    "verify --enclave hello --eif /nope": (1, "[agent/no-image]", "run the image step, or name another file"),
    "verify --enclave hello --eif /etc": (1, "[agent/no-image]", "got: /etc"),
    "diagnose --upload nowhere": (1, "[agent/upload]", "expected: s3://bucket/prefix"),
}


def _agent(instance, command, config=None):
    variables = {"AWS_SSM_INSTANCE_ID": "i-1", **({"SSM_Config": config} if config else {})}
    return instance.run_script(f"python3 /opt/nitrokit/agent.pyz {command}", variables, 120)


@pytest.mark.timeout(300)
def test_each_mistake_is_told_with_what_to_do(emulated_parent, eif):
    instance, folder = emulated_parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    for step in STEPS:
        assert _agent(instance, f"{step} --enclave hello", hello_configuration(eif)).exit_code == 0, step
    for command, (code, *words) in WRONG.items():
        done = _agent(instance, command)
        assert (done.exit_code, done.stdout) == (code, ""), (command, done)
        assert all(one in done.stderr for one in words), (command, done.stderr)

    assert _agent(instance, "drain --enclave hello").exit_code == 0
    done = _agent(instance, "rotate --enclave hello")
    assert (done.exit_code, instance.hypervisor.describe()) == (1, []), "drained is until resume"
    assert "hello is drained [agent/drained]" in done.stderr and "do: resume it" in done.stderr
    for command in ("resume", "rotate"):
        assert _agent(instance, f"{command} --enclave hello").exit_code == 0


@pytest.mark.parametrize("command", ["drain --enclave hello", "install --enclave hello", "diagnose"])
def test_who_is_not_root_is_told(command):
    folder = short_folder("n")
    try:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        (folder / "agent.pyz").write_bytes(build_agent())
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
        ran = [*nobody, "/usr/bin/python3", str(folder / "agent.pyz"), *command.split()]
        done = subprocess.run(ran, capture_output=True, text=True, check=False, timeout=60)
    finally:
        shutil.rmtree(folder)
    assert (done.returncode, "[agent/not-root]" in done.stderr, "do: run it by sudo" in done.stderr) == (1, True, True), done.stderr
