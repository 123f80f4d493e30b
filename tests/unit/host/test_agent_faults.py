"""The agent among programs that fail: killed half way, torn downloads, lies, E-codes, two at once. The programs are scripts; the agent is the deployed file."""

import hashlib
import json
import time

import pytest

from nitrokit.host.bundle import MODULES, build_agent
from nitrokit.host.config import AgentError, parse
from nitrokit.host.renderer import render_document

EIF = b"00" * 48 + b" the image"
LOCKED = {"PCR0": "00" * 48, "PCR1": "11" * 48, "PCR2": "22" * 48}
CONFIG = {
    "name": "hello", "image_uri": "s3://bucket/a.eif", "image_sha256": hashlib.sha256(EIF).hexdigest(), "measurements": LOCKED,
    "cpu_count": 2, "memory_mib": 256, "cid": 16, "proxies": [{"vsock_port": 8001, "host": "kms.us-east-1.amazonaws.com", "port": 443}],
}  # fmt: skip
STEPS = ("install", "allocate", "image", "verify", "run")
HEALTHY = {"status": "ok", "app": "running", "restarts": 0}


@pytest.fixture
def parent(fake_parent):
    fake_parent.put("a.eif", EIF)
    return fake_parent


def _step(parent, step, **environment):
    return parent.agent(f"{step} --enclave hello", SSM_Config=json.dumps(CONFIG), **environment)


def _up(parent, *steps):
    lines = [f"python3 /opt/nitrokit/agent.pyz {step} --enclave hello" for step in steps or STEPS]
    done = parent.run("set -e\n" + "\n".join(lines), SSM_Config=json.dumps(CONFIG))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _running(parent, **changes):
    """As if the run step had been done."""
    enclave = {
        "EnclaveName": "hello", "EnclaveID": "i-1-enc1", "EnclaveCID": 16, "NumberOfCPUs": 2, "MemoryMiB": 256, "State": "RUNNING", "Flags": "NONE", "Measurements": LOCKED,
    }  # fmt: skip
    (parent.folder / "etc/nitrokit").mkdir(exist_ok=True)
    (parent.folder / "etc/nitrokit/hello.json").write_text(json.dumps(CONFIG))
    (parent.folder / "var/fake/enclaves").write_text(json.dumps({**enclave, **changes}))


def _kill_when_hanging(parent, step, **environment):
    process = parent.start(f"exec python3 /opt/nitrokit/agent.pyz {step} --enclave hello", SSM_Config=json.dumps(CONFIG), **environment)
    deadline = time.monotonic() + 20
    while not (parent.folder / "var/fake/hanging").exists():
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()


def test_a_download_that_was_killed_half_way_is_done_again(parent):
    _up(parent, "install", "allocate")
    _kill_when_hanging(parent, "image", FAULT_AWS="hang")
    image = parent.folder / "var/lib/nitrokit/hello"
    assert [path.name for path in image.iterdir()] == ["image.part"]
    assert json.loads(_step(parent, "image").stdout)["fetched"] is True
    assert {path.name: path.read_bytes() for path in image.iterdir()} == {"image.eif": EIF}


@pytest.mark.parametrize(("fault", "code"), [("torn", "agent/image-sha256"), ("fail", "agent/image")])
def test_a_torn_or_refused_download_leaves_nothing(parent, fault, code):
    _up(parent, "install")
    refused = _step(parent, "image", FAULT_AWS=fault)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"[{code}]" in refused.stderr
    assert list((parent.folder / "var/lib/nitrokit/hello").iterdir()) == []


def test_a_good_image_is_not_replaced_by_a_torn_one(parent):
    _up(parent, "install", "image")
    assert json.loads(_step(parent, "image", FAULT_AWS="torn").stdout)["fetched"] is False
    changed = {**CONFIG, "image_sha256": "0" * 64}
    assert parent.agent("install --enclave hello", SSM_Config=json.dumps(changed)).returncode == 0
    assert _step(parent, "image", FAULT_AWS="torn").returncode == 1
    assert (parent.folder / "var/lib/nitrokit/hello/image.eif").read_bytes() == EIF


def test_an_image_that_rotted_is_fetched_again(parent):
    _up(parent, "install", "image")
    (parent.folder / "var/lib/nitrokit/hello/image.eif").write_bytes(EIF[:-1])
    assert json.loads(_step(parent, "image").stdout)["fetched"] is True


def test_an_allocation_that_was_killed_half_way_is_done_again(parent):
    _up(parent, "install")
    _kill_when_hanging(parent, "allocate", FAULT_SYSTEMCTL="hang")
    assert (parent.folder / "etc/nitro_enclaves/allocator.yaml").read_text() == "---\nmemory_mib: 256\ncpu_count: 2\n"
    # The driver may even have the CPUs of an older pool, whose memory is another.
    (parent.folder / "sys/module/nitro_enclaves/parameters/ne_cpus").write_text("2,3\n")
    before = len(parent.log)
    _up(parent, "allocate")
    assert "systemctl restart nitro-enclaves-allocator.service" in parent.log[before:]
    before = len(parent.log)
    _up(parent, "allocate")
    assert parent.log[before:] == []


def test_an_allocator_that_lies_is_found_out_and_asked_again(parent):
    _up(parent, "install")
    refused = _step(parent, "allocate", FAULT_SYSTEMCTL="lie")
    assert refused.returncode == 1
    assert "[agent/pool]" in refused.stderr
    assert "EnclaveOptions" in refused.stderr
    assert json.loads(_step(parent, "allocate").stdout)["cpus"] == [2, 3]


def test_a_pool_under_a_running_enclave_is_changed_by_ending_it(parent):
    _up(parent)
    larger = json.dumps({**CONFIG, "memory_mib": 512})
    assert parent.agent("install --enclave hello", SSM_Config=larger).returncode == 0
    _up_before = len(parent.log)
    assert _step(parent, "allocate").returncode == 0
    log = parent.log[_up_before:]
    assert log.index("nitro-cli terminate-enclave --all") < log.index("systemctl restart nitro-enclaves-allocator.service")


def test_the_second_run_starts_nothing(parent):
    assert _up(parent)["started"] is True
    before = len(parent.log)
    assert _up(parent)["started"] is False
    assert not [line for line in parent.log[before:] if "run-enclave" in line or "restart" in line or line.startswith(("aws", "dnf"))]


def test_a_wrong_enclave_under_our_name_is_replaced(parent):
    _up(parent)
    wrong = (
        {"Flags": "DEBUG_MODE"},
        {"State": "TERMINATING"},
        {"EnclaveCID": 17},
        {"MemoryMiB": 128},
        {"NumberOfCPUs": 4},
        {"Measurements": {**LOCKED, "PCR2": "33" * 48}},
    )
    for change in wrong:
        _running(parent, **change)
        before = len(parent.log)
        assert _up(parent, "run")["started"] is True, change
        assert "nitro-cli terminate-enclave --enclave-id i-1-enc1" in parent.log[before:]


def test_two_agents_at_once_launch_once(parent):
    _up(parent, "install", "allocate", "image")
    both = [parent.start("exec python3 /opt/nitrokit/agent.pyz run --enclave hello") for _ in range(2)]
    results = []
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        results.append(json.loads(out)["started"])
    assert sorted(results) == [False, True]
    assert len([line for line in parent.log if line.startswith("nitro-cli run-enclave")]) == 1


def test_a_killed_agents_lock_is_free(parent):
    _up(parent, "install", "allocate", "image")
    _kill_when_hanging(parent, "run", FAULT_RUN="hang")
    assert _up(parent, "run")["started"] is True


def test_resources_that_drain_are_waited_for(parent):
    _up(parent, "install", "allocate", "image")
    assert json.loads(_step(parent, "run", FAULT_RUN="E29*3").stdout)["started"] is True


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("E27", "1 GiB"),
        ("E26", "four times"),
        ("E36", "one launch"),
        ("E59", "sign"),
        ("E19", "EnclaveOptions"),
        ("E77", "nitro-cli explain"),
    ],
)
def test_e_codes_come_with_their_remedy(parent, code, remedy):
    _up(parent, "install", "allocate", "image")
    refused = _step(parent, "run", FAULT_RUN=code)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"[ {code} ]" in refused.stderr
    assert remedy in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("step", ["allocate", "verify", "run"])
def test_a_nitro_cli_that_talks_nonsense_is_our_error(parent, step):
    _up(parent, "install", "image")
    refused = _step(parent, step, FAULT_JSON="1")
    assert refused.returncode == 1
    assert "did not print JSON" in refused.stderr


@pytest.mark.parametrize("step", ["allocate", "image", "verify", "run", "health", "terminate", "attest --nonce AAAA", "ask"])
def test_no_step_works_before_install_and_each_says_what_to_do(parent, step):
    refused = _step(parent, step)
    if step != "terminate":
        assert refused.returncode == 1
        assert "; do: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_without_nitro_cli_and_without_packages_the_cause_is_named(parent):
    (parent.folder / "bin/nitro-cli").unlink()
    refused = _step(parent, "install")
    assert refused.returncode == 1
    assert "repomd.xml" in refused.stderr
    assert "dnf install --assumeyes aws-nitro-enclaves-cli" in parent.log
    assert not (parent.folder / "etc/nitrokit/hello.json").exists()


def test_the_configuration_of_another_enclave_is_refused(parent):
    refused = parent.agent("install --enclave other", SSM_Config=json.dumps(CONFIG))
    assert "another enclave" in refused.stderr


@pytest.mark.parametrize("name", ["../etc", "a b", "", "A", "a" * 33, "$(reboot)"])
def test_a_name_that_is_no_name_goes_nowhere(parent, name):
    refused = parent.agent(f"verify --enclave '{name}'")
    assert refused.returncode == 1
    assert "[agent/name]" in refused.stderr


# Health, attest, ask


def test_a_healthy_enclave_is_healthy_at_once(parent, answer_on, frame):
    _running(parent)
    answer_on(parent, 5001, frame(HEALTHY))
    assert json.loads(_step(parent, "health").stdout) == {"status": "healthy", "enclave_id": "i-1-enc1"}


def test_an_enclave_that_ended_is_not_waited_for(parent):
    _running(parent)
    (parent.folder / "var/fake/enclaves").unlink()
    start = time.monotonic()
    refused = _step(parent, "health")
    assert "[agent/not-running]" in refused.stderr
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x05{",
        b"\x00\x00\x00\x04nope",
        b"\x00\x01\x00\x00" + b"[" * 65536,
    ],
)
def test_a_hostile_enclave_gets_an_error_and_no_traceback(parent, answer_on, answer):
    _running(parent)
    answer_on(parent, 5001, answer)
    refused = parent.agent("attest --enclave hello --nonce AAAA")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "agent/" in refused.stderr


def test_attest_prints_one_line_of_json(parent, answer_on, frame):
    _running(parent)
    answer_on(parent, 5001, frame({"document": "ZG9j"}))
    done = parent.agent("attest --enclave hello --nonce AAAA")
    assert json.loads(done.stdout) == {"document": "ZG9j", "enclave_id": "i-1-enc1"}
    assert done.stdout.count("\n") == 1


def test_a_nonce_for_the_instance_needs_the_instance_and_a_base(parent):
    _running(parent)
    refused = parent.agent("attest --enclave hello --nonce AAAA --nonce-for instance")
    assert "[agent/no-instance-id]" in refused.stderr
    refused = parent.agent("attest --enclave hello --nonce A --nonce-for instance", AWS_SSM_INSTANCE_ID="i-1")
    assert "[agent/nonce]" in refused.stderr


def test_without_credentials_nothing_is_sent(parent, answer_on, frame):
    _running(parent)
    answer_on(parent, 5000, frame({"proof": "x"}))
    ask = "python3 /opt/nitrokit/agent.pyz ask --enclave hello"
    assert json.loads(parent.run(f"echo '{{}}' | {ask}").stdout) == {"proof": "x"}
    refused = parent.run(f"echo '{{}}' | {ask} --with-credentials", AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9")
    assert "[agent/no-credentials]" in refused.stderr
    refused = parent.run(f"echo nonsense | {ask}")
    assert "[agent/request]" in refused.stderr


# The proxy


def test_the_proxy_is_a_unit_of_our_own_with_an_allowlist_of_one(parent):
    _up(parent)
    unit = (parent.folder / "etc/systemd/system/nitrokit-vsock-proxy-8001.service").read_text()
    assert (
        "ExecStart=/usr/bin/vsock-proxy --num_workers 32 --config /etc/nitrokit/vsock-proxy-8001.yaml 8001 kms.us-east-1.amazonaws.com 443\n"
        in unit
    )
    assert (
        parent.folder / "etc/nitrokit/vsock-proxy-8001.yaml"
    ).read_text() == "allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n"
    assert "systemctl restart nitrokit-vsock-proxy-8001.service" in parent.log


@pytest.mark.parametrize(
    "change",
    [
        {"proxies": [{"vsock_port": 8001, "host": "a\nExecStart=/bin/sh", "port": 443}]}, {"proxies": [{"vsock_port": 3, "host": "a", "port": 443}]},
        {"proxies": [{"vsock_port": 9, "host": "a", "port": 0}]},
        {"measurements": {}}, {"measurements": {"PCR0": "00" * 48}}, {"measurements": {**LOCKED, "PCR0": ""}}, {"image_uri": "--recursive"}, {"image_sha256": "x"},
        {"cid": 3}, {"cpu_count": 0}, {"memory_mib": 0}, {"name": "../x"}, {"proxies": None}, {"cpu_count": "two"},
    ],
)  # fmt: skip
def test_a_configuration_that_could_do_harm_is_refused(change):
    with pytest.raises(AgentError):
        parse(json.dumps({**CONFIG, **change}))


# The SSM document's own script


def _script(step):
    (found,) = [one for one in render_document("bootstrap.json.j2", name="hello")["mainSteps"] if one["name"] == step]
    return "\n".join(found["inputs"]["runCommand"])


def _variables(**changes):
    agent = build_agent()
    return {
        "SSM_Config": json.dumps(CONFIG),
        "SSM_AgentUri": "s3://bucket/agent.pyz",
        "SSM_AgentSha256": hashlib.sha256(agent).hexdigest(),
        "AWS_SSM_REGION_NAME": "eu-west-1",
        **changes,
    }


def test_the_document_brings_the_agent_and_runs_it(parent):
    parent.put("agent.pyz", build_agent())
    (parent.folder / "opt/nitrokit/agent.pyz").unlink()
    parent.program("aws", 'echo "region $AWS_DEFAULT_REGION" >> /var/fake/log; cp "/var/fake/s3/$(basename "$4")" "$5"\n')
    for step in STEPS:
        done = parent.run(_script(step), **_variables())
        assert done.returncode == 0, (step, done.stderr)
    assert parent.log[0] == "region eu-west-1"
    assert [path.name for path in (parent.folder / "opt/nitrokit").iterdir()] == ["agent.pyz"]


def test_an_agent_with_another_hash_never_runs(parent):
    parent.put("agent.pyz", b"import os; open('/var/fake/ran', 'w')")
    before = (parent.folder / "opt/nitrokit/agent.pyz").read_bytes()
    refused = parent.run(_script("install"), **_variables())
    assert refused.returncode != 0
    assert "not the one deployed" in refused.stderr
    assert not (parent.folder / "var/fake/ran").exists()
    assert {path.name: path.read_bytes() for path in (parent.folder / "opt/nitrokit").iterdir()} == {"agent.pyz": before}


def test_an_ssm_agent_without_env_var_parameters_is_told_so(parent):
    refused = parent.run(_script("install"), AWS_SSM_REGION_NAME="eu-west-1")
    assert "3.3.2746.0" in refused.stderr
    assert parent.log == []


def test_the_bundle_is_what_the_agent_imports(parent):
    code = "import sys; sys.path.insert(0, '/opt/nitrokit/agent.pyz'); import nitrokit.host.agent, nitrokit.host.imds; "
    code += "print(*[m.__file__.split('.pyz/nitrokit/')[1] for n, m in sys.modules.items() if n.split('.')[0] == 'nitrokit'])"
    done = parent.run(f'python3 -c "{code}"')
    assert done.stderr == ""
    assert set(done.stdout.split()) == set(MODULES)
