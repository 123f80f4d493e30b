"""The host agent in an emulated parent, where it finds what it would find on Amazon Linux; and with faults put in its way."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from emulatedparent import INSTANCE, ROOT, hello_configuration

from nitrokit.core.attestation import parse_document
from nitrokit.core.nonces import enclave_nonce
from nitrokit.emulation.nitro.error import NitroError
from nitrokit.host.bundle import MODULES, build_agent
from nitrokit.host.config import AgentError, parse
from nitrokit.host.renderer import MAX_DOCUMENT, render_document


@pytest.fixture
def parent(emulated_parent):
    return emulated_parent


def _agent(instance, command, config=None, **environment):
    variables = {**environment, **({"SSM_Config": config} if config else {})}
    return instance.run_script(f"python3 /opt/nitrokit/agent.pyz {command}", variables, 120)


def _steps(instance, config, steps=("install", "image", "verify", "allocate", "run", "health")):
    results = []
    for step in steps:
        done = _agent(instance, f"{step} --enclave hello", config)
        assert done.exit_code == 0, (step, done.stderr)
        results.append(json.loads(done.stdout))
    return results


def test_the_steps_bring_an_enclave_up_and_repeating_them_changes_nothing(parent, eif, pki):
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    first = _steps(instance, hello_configuration(eif))
    again = _steps(instance, hello_configuration(eif))
    assert (first[1]["fetched"], again[1]["fetched"]) == (True, False)
    assert (first[4]["started"], again[4]["started"]) == (True, False)
    assert first[4]["enclave_id"] == again[5]["enclave_id"]
    nonce = base64.b64encode(b"n" * 32).decode()
    attested = json.loads(_agent(instance, f"attest --enclave hello --nonce {nonce}").stdout)
    assert attested["enclave_id"] == first[4]["enclave_id"]
    derived = json.loads(
        _agent(instance, f"attest --enclave hello --nonce {nonce} --nonce-for instance", AWS_SSM_INSTANCE_ID=INSTANCE).stdout
    )
    assert parse_document(base64.b64decode(derived["document"])).nonce == enclave_nonce(b"n" * 32, INSTANCE, "hello")
    asked = instance.run_script('echo \'{"op": "nothing"}\' | python3 /opt/nitrokit/agent.pyz ask --enclave hello', {}, 60)
    assert json.loads(asked.stdout)["error"]["code"] == "unknown-operation"


def test_another_image_is_refused_naming_each_pcr(parent, eif):
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    locked = json.loads(hello_configuration(eif))["measurements"]
    config = hello_configuration(eif, measurements={**locked, "PCR0": "ab" * 48, "PCR2": "cd" * 48})
    _steps(instance, config, ("install", "image", "allocate"))
    for step in ("verify", "run"):
        refused = _agent(instance, f"{step} --enclave hello")
        assert refused.exit_code == 1
        assert "agent/drift" in refused.stderr
        assert "PCR0, PCR2 differ" in refused.stderr
        assert "ab" * 48 in refused.stderr
    assert instance.hypervisor.describe() == []


def test_a_changed_object_never_becomes_the_image(parent, eif):
    instance, folder = parent
    (folder / "opt/s3/hello.eif").write_bytes(eif.read_bytes()[:-1])
    _steps(instance, hello_configuration(eif), ("install", "allocate"))
    refused = _agent(instance, "image --enclave hello")
    assert (refused.exit_code, "agent/image-sha256" in refused.stderr) == (1, True)
    assert list((folder / "var/lib/nitrokit/hello/images").iterdir()) == []


def test_a_debug_enclave_under_our_name_is_replaced(parent, eif):
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    _steps(instance, hello_configuration(eif), ("install", "image", "allocate"))
    path = next((folder / "var/lib/nitrokit/hello/images").iterdir()).name
    run = f"nitro-cli run-enclave --eif-path /var/lib/nitrokit/hello/images/{path} --cpu-count 2 --memory 320 --enclave-cid 16 --enclave-name hello --debug-mode"
    assert instance.run_script(run, {}, 120).exit_code == 0
    assert _agent(instance, "health --enclave hello").exit_code == 1
    _steps(instance, hello_configuration(eif), ("run", "health"))
    assert [one["Flags"] for one in instance.hypervisor.describe()] == ["NONE"]


def test_an_enclave_that_died_is_started_again(parent, eif):
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    _steps(instance, hello_configuration(eif))
    os.kill(instance.hypervisor.describe()[0]["ProcessID"], 9)
    assert _steps(instance, hello_configuration(eif), ("run", "health"))[0]["started"] is True


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("nitro-cli run-enclave --eif-path /nowhere --cpu-count 2 --memory 320", "E19"), ("nitro-cli run-enclave --memory 320", "E01"),
        ("nitro-cli run-enclave --eif-path /opt/s3/hello.eif --memory 320 --cpu-count 2 --cpu-ids 1 2", "E02"), ("nitro-cli run-enclave --eif-path /opt/s3/hello.eif --memory 64 --cpu-count 2", "E26"),
        ("nitro-cli run-enclave --eif-path /opt/s3/hello.eif --memory 4G --cpu-count 2", "E27"), ("nitro-cli run-enclave --eif-path /opt/s3/hello.eif --memory 320 --cpu-count 4", "E22"),
        ("nitro-cli run-enclave --eif-path /opt/s3/hello.eif --memory 320 --cpu-count 3", "E20"),
        ("nitro-cli run-enclave --eif-path /opt/s3/hello.eif --memory 320 --cpu-count 2 --enclave-cid 3", "E05"),
        ("nitro-cli run-enclave --eif-path /etc/passwd --memory 320 --cpu-count 2", "E35"), ("nitro-cli build-enclave --docker-uri x --output-file y", "E48"),
        ("nitro-cli console --enclave-name nobody", "E11"), ("nitro-cli terminate-enclave --enclave-id nobody", "E11"), ("nitro-cli describe-eif --eif-path /etc/passwd", "E35"),
    ],
)  # fmt: skip
def test_nitro_clis_codes(parent, eif, script, code):
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    _steps(instance, hello_configuration(eif), ("install", "allocate"))
    done = instance.run_script(script, {}, 60)
    assert done.exit_code == 1
    assert f"[ {code} ]" in done.stderr
    assert done.stdout == ""


def test_before_the_allocator_nothing_runs_and_the_remedy_is_named(parent, eif):
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    _steps(instance, hello_configuration(eif), ("install", "image"))
    refused = _agent(instance, "run --enclave hello")
    assert "[ E19 ]" in refused.stderr
    assert "allocate step" in refused.stderr


def test_a_busy_port_9000_fails_a_launch_and_the_agent_tries_again(parent, eif):
    """Each launch binds it (aws-nitro-enclaves-cli issue 516)."""
    instance, folder = parent
    shutil.copy(eif, folder / "opt/s3/hello.eif")
    _steps(instance, hello_configuration(eif), ("install", "image", "allocate"))
    port = instance.hypervisor.vsock / "3" / "9000"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(port))
        with eif.open("rb") as file, pytest.raises(NitroError) as caught:
            instance.hypervisor.run(file, cpu_count=2, memory_mib=320, cid=None, name="x", debug=False)
        assert caught.value.code == "E36"
        threading.Timer(2, port.unlink).start()
        _steps(instance, hello_configuration(eif), ("run", "health"))
    journal = next((folder / "hw/units").glob("nitrokit-enclave-hello.journal")).read_text()
    assert "port 9000" not in journal  # it passed by itself, and nobody need know


def test_a_script_that_hangs_is_killed_with_its_children(parent):
    instance, _ = parent
    done = instance.run_script("sleep 1000 & sleep 1000", {}, 1)
    assert done.exit_code == 124
    assert "timed out" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "../x"}', hello_configuration.__name__])
def test_a_damaged_configuration_is_our_error(text):
    with pytest.raises(AgentError):
        parse(text)


def test_an_old_ssm_agent_is_told_so(parent):
    instance, _ = parent
    refused = _agent(instance, "install --enclave hello")
    assert "3.3.2746" in refused.stderr


def test_the_agent_is_reproducible_standard_library_and_small(tmp_path):
    assert build_agent() == build_agent()
    assert len(build_agent()) < 128 * 1024
    path = tmp_path / "agent.pyz"
    path.write_bytes(build_agent())
    code = "import sys; sys.argv = ['agent', '--version']; path = sys.orig_argv[-1]\n"
    code += "try:\n import runpy; runpy.run_path(path, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    loaded = (
        subprocess.run([sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True, check=False)
        .stdout.splitlines()[-1]
        .split()
    )
    assert set(loaded) <= {"nitrokit", "__main__"}, loaded


def test_the_agents_sources_and_what_they_take_of_the_library_are_python_3_9s(tmp_path):
    newer = tmp_path / "newer.py"
    newer.write_text("import tomllib\n")
    check = [str(Path(sys.executable).with_name("vermin")), "--target=3.9-", "--violations", "--no-tips"]
    sources = [str(ROOT / "constructs/nitrokit" / name) for name in MODULES]
    done = subprocess.run([*check, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert subprocess.run([*check, str(newer)], capture_output=True, check=False).returncode == 1


def test_ssm_documents_are_small_and_whole():
    for template in ("bootstrap.json.j2", "attest.json.j2"):
        document = render_document(template, name="hello")
        assert document["schemaVersion"] == "2.2"
        assert len(json.dumps(document)) < MAX_DOCUMENT
        assert all(parameter["interpolationType"] == "ENV_VAR" for parameter in document["parameters"].values())
        assert "{{" not in json.dumps(document)
    steps = [step["name"] for step in render_document("bootstrap.json.j2", name="hello")["mainSteps"]]
    assert steps == ["install", "image", "verify", "allocate", "run", "health"]
