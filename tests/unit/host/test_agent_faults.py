"""The agent among programs that fail: killed half way, torn and slow downloads, full disks, lies, E-codes. The programs are scripts; the agent is the deployed file."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fakeparent import AGENT, STEPS, configuration, frame, image, pcrs

from nitrokit.host.bundle import MODULES, build_agent
from nitrokit.host.codes import NITRO_CLI, allocator_code
from nitrokit.host.config import AgentError, parse
from nitrokit.host.renderer import render_document

EIF = image("00")


@pytest.fixture
def parent(fake_parent):
    return fake_parent


def _images(parent):
    folder = parent.folder / "var/lib/nitrokit/hello/images"
    return {path.suffix: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def _running(parent, mark="00", **changes):
    """As if the run step had been done."""
    enclave = {
        "EnclaveName": "hello", "EnclaveID": "i-1-enc1", "EnclaveCID": 16, "NumberOfCPUs": 2, "MemoryMiB": 256, "State": "RUNNING", "Flags": "NONE", "Measurements": pcrs(mark),
    }  # fmt: skip
    (parent.folder / "etc/nitrokit").mkdir(exist_ok=True)
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration(mark))
    (parent.folder / "var/fake/enclaves/hello.json").write_text(json.dumps({**enclave, **changes}))


def _kill_when_hanging(parent, step):
    process = parent.start(f"exec {AGENT} {step} --enclave hello", SSM_Config=configuration())
    deadline = time.monotonic() + 20
    while not (parent.folder / "var/fake/hanging").exists():
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()


# The image


def test_a_download_that_was_killed_goes_on_where_it_was(parent):
    parent.up(steps=STEPS[:1])
    (parent.folder / "var/lib/nitrokit/hello/images").mkdir(parents=True)
    part = parent.folder / f"var/lib/nitrokit/hello/images/{hashlib.sha256(EIF).hexdigest()}.part"
    part.write_bytes(EIF[:40])
    parent.fault("aws", "hang")
    _kill_when_hanging(parent, "image")
    assert _images(parent)[".part"] == EIF[:40]
    parent.fault("aws")
    assert parent.up(steps=["image"])["fetched"] is True
    assert any(f"bytes=40-{len(EIF) - 1}" in line for line in parent.log)
    assert _images(parent) == {".eif": EIF}


def test_what_was_fetched_before_and_is_wrong_is_fetched_anew(parent):
    parent.up(steps=STEPS[:1])
    (parent.folder / "var/lib/nitrokit/hello/images").mkdir(parents=True)
    (parent.folder / f"var/lib/nitrokit/hello/images/{hashlib.sha256(EIF).hexdigest()}.part").write_bytes(b"x" * 40)
    assert parent.up(steps=["image"])["fetched"] is True
    assert _images(parent) == {".eif": EIF}


def test_a_slow_s3_is_waited_for_and_a_torn_part_is_asked_for_again(parent):
    parent.fault("aws", "slow")
    parent.up(steps=STEPS[:2])
    assert _images(parent) == {".eif": EIF}


@pytest.mark.parametrize(("fault", "code", "asked"), [("torn", "agent/image", 4), ("fail", "agent/image", 0)])
def test_a_torn_or_refused_download_leaves_nothing(parent, fault, code, asked):
    parent.up(steps=STEPS[:1])
    parent.fault("aws", fault)
    refused = parent.step("image")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"[{code}]" in refused.stderr
    assert len([line for line in parent.log if "get-object" in line]) == asked
    assert ".eif" not in _images(parent)


def test_a_version_of_the_object_is_asked_for(parent):
    parent.up(configuration(image_version="v3.x_Y"), STEPS[:2])
    assert all("--version-id v3.x_Y" in line for line in parent.log if "s3api" in line)


@pytest.mark.parametrize("where", ["before", "during"])
def test_a_full_disk_is_told_and_leaves_nothing(parent, where):
    """A real file system without room: a tmpfs of a megabyte."""
    size = 900_000 if where == "during" else 300_000_000
    parent.put("big.eif", EIF + b"\0" * size)
    digest = hashlib.sha256(EIF + b"\0" * size).hexdigest()
    config = configuration(image_uri="s3://bucket/big.eif", image_sha256=digest)
    mount = "mount -t tmpfs -o size=1m none /var/lib && "
    script = f"{mount}{AGENT} install --enclave hello && {AGENT} image --enclave hello; code=$?; ls -R /var/lib; exit $code"
    patched = parent.folder / "opt/nitrokit/agent.pyz"
    if where == "during":
        # The check before the download is passed: somebody else fills the disk meanwhile.
        patched.write_bytes(_changed(patched.read_bytes(), "host/images.py", b"shutil.disk_usage(part.parent).free", b"1 << 40"))
    sandbox = [*parent.sandbox(), "--cap-add", "CAP_SYS_ADMIN", "/bin/sh", "-c", script]
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(sandbox, env={**parent.environment(), "SSM_Config": config}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "[agent/disk-full]" in done.stderr
    assert "larger volume" in done.stderr
    assert ".eif" not in done.stdout


def _changed(agent, module, before, after):
    """The agent with one place of its source another."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(agent)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            text = source.read(name)
            if name.endswith(module):
                assert before in text
                text = text.replace(before, after)
            target.writestr(name, text)
    return buffer.getvalue()


def test_a_good_image_is_not_replaced_by_a_torn_one(parent):
    parent.up(steps=STEPS[:2])
    parent.fault("aws", "torn")
    assert parent.up(steps=["image"])["fetched"] is False
    assert parent.steps(configuration(image_sha256="0" * 64), STEPS[:2]).returncode == 1
    assert _images(parent)[".eif"] == EIF


def test_an_image_that_rotted_is_fetched_again(parent):
    parent.up(steps=STEPS[:2])
    path = next((parent.folder / "var/lib/nitrokit/hello/images").iterdir())
    path.write_bytes(EIF[:-1])
    assert parent.up(steps=["image"])["fetched"] is True
    assert path.read_bytes() == EIF


# An image that the parent builds


DOCKER = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app@sha256:" + "ab" * 32


def test_an_image_of_ecr_is_built_and_stands_by_the_lock(parent):
    parent.program("docker", '#!/bin/sh\necho "docker $* $(cat)" >> /var/fake/log\nls -d "$HOME" >> /var/fake/log\n')
    parent.program("aws", '#!/bin/sh\necho "aws $*" >> /var/fake/log\necho pass-word\n')
    cli = (parent.folder / "bin/nitro-cli").read_text()
    build = 'case "$1" in\n  build-enclave) [ -d "$NITRO_CLI_ARTIFACTS" ] || exit 51; printf %s "$BUILT" > "$5"; exit 0 ;;'
    parent.program("nitro-cli", cli.replace('case "$1" in\n', build + "\n", 1))
    config = configuration(docker_uri=DOCKER, image_uri="", image_sha256="")
    for step in STEPS[:3]:
        done = parent.step(step, config, BUILT=EIF.decode())
        assert done.returncode == 0, done.stderr
    assert not [line for line in parent.log if "pass-word" in line and "--password-stdin" not in line.partition("pass-word")[0]]
    assert f"docker pull --quiet {DOCKER} " in parent.log
    assert not list((parent.folder / "run/nitrokit").iterdir())
    drifted = configuration(docker_uri=DOCKER, image_uri="", image_sha256="", measurements=pcrs("cc"))
    parent.step("install", drifted)
    parent.step("image", drifted, BUILT=EIF.decode())
    refused = parent.step("verify", drifted)
    assert "[agent/drift]" in refused.stderr


# The pool


def test_an_allocation_that_was_killed_half_way_is_done_again(parent):
    parent.up(steps=STEPS[:1])
    parent.fault("allocator", "hang")
    _kill_when_hanging(parent, "allocate")
    assert (parent.folder / "etc/nitro_enclaves/allocator.yaml").read_text() == "---\nmemory_mib: 256\ncpu_count: 2\n"
    parent.fault("allocator")
    # The driver may even have the CPUs of an older pool, whose memory is another.
    (parent.folder / "sys/module/nitro_enclaves/parameters/ne_cpus").write_text("2,3\n")
    assert parent.up(steps=["allocate"]) == {"cpus": [2, 3], "memory_mib": 256}
    before = parent.log.count("allocator")
    parent.up(steps=["allocate"])
    assert parent.log.count("allocator") == before


def test_an_allocator_that_lies_is_found_out_and_asked_again(parent):
    parent.up(steps=STEPS[:1])
    parent.fault("allocator", "lie")
    refused = parent.step("allocate")
    assert refused.returncode == 1
    assert "[agent/pool]" in refused.stderr
    assert "EnclaveOptions" in refused.stderr
    parent.fault("allocator")
    assert parent.up(steps=["allocate"])["cpus"] == [2, 3]


@pytest.mark.parametrize(("text", "code"), [(one, 200 + number) for number, one in enumerate([
    "No CPUs are off-line. Please configure the CPU pool first.", "Failed to find NUMA node for a CPU. This indicates an invalid SysFS configuration.",
    "Invalid NUMA node for a CPU. This indicates an invalid CPU ID.", "Failed to clear huge page(s). Some pages may be in use.",
    "Failed to set a number of huge pages. This may indicate insufficient system resources.", "Failed to roll back a number of huge pages. Some pages may be in use.",
    "Failed to configure entire amount of requested memory. This indicates insufficient system resources.",
])])  # fmt: skip
def test_every_allocator_code_has_a_cause_and_a_remedy(text, code):
    found = allocator_code(f"Error: No CPUs are off-line\nError: {text}\n")
    assert found is not None
    assert (found[0], bool(found[1]), bool(found[2])) == (code, True, True)
    assert allocator_code("Done.") is None


def test_a_fifth_enclave_is_refused(parent):
    for name in ("a", "b", "c", "d"):
        parent.step("install", configuration(name=name), name)
    parent.up(steps=STEPS[:1])
    refused = parent.step("allocate")
    assert "[agent/too-many]" in refused.stderr


# nitro-cli


def test_every_e_code_has_a_cause_and_a_remedy():
    assert list(NITRO_CLI) == [f"E{number:02}" for number in range(61)]
    assert all(len(one) == 2 and all(one) for one in NITRO_CLI.values())


@pytest.mark.parametrize("step", ["allocate", "verify", "health"])
def test_a_nitro_cli_that_talks_nonsense_is_our_error(parent, step):
    parent.up(steps=STEPS[:2])
    parent.fault("json", "1")
    refused = parent.step(step)
    assert refused.returncode == 1
    assert "did not print JSON" in refused.stderr


@pytest.mark.parametrize("step", [*STEPS[1:], "terminate", "resume", "rotate", "attest --nonce AAAA", "ask", "follow", "serve"])
def test_no_step_works_before_install_and_each_says_what_to_do(parent, step):
    refused = parent.step(step)
    if step != "terminate":
        assert refused.returncode == 1
        assert "; do: " in refused.stderr
    assert "Traceback" not in refused.stderr


# Installing


def test_without_nitro_cli_and_without_packages_the_cause_is_named(parent):
    (parent.folder / "bin/nitro-cli").unlink()
    parent.fault("dnf", "1")
    refused = parent.step("install")
    assert refused.returncode == 1
    assert "repomd.xml" in refused.stderr
    assert "dnf install --assumeyes aws-nitro-enclaves-cli" in parent.log
    assert not (parent.folder / "etc/nitrokit/hello.json").exists()


def test_a_nitro_cli_with_known_bugs_is_updated_or_refused(parent):
    parent.fault("version", "1.3.0")
    refused = parent.step("install")
    assert "[agent/old-nitro-cli]" in refused.stderr
    assert "dnf install --assumeyes aws-nitro-enclaves-cli" in parent.log
    parent.fault("version", "1.3.1")
    assert parent.up(steps=["install"])["nitro_cli"] == "1.3.1"


def test_amazon_linux_2_has_it_among_its_extras(parent):
    (parent.folder / "etc/os-release").write_text('NAME="Amazon Linux"\nVERSION="2"\nID="amzn"\nVERSION_ID="2"\n')
    for name in ("amazon-linux-extras", "yum"):
        parent.program(name, f'#!/bin/sh\necho "{name} $*" >> /var/fake/log\n')
    parent.program("docker", "#!/bin/sh\n")
    (parent.folder / "bin/nitro-cli").rename(parent.folder / "bin/.nitro-cli")
    parent.step("install", configuration(docker_uri=DOCKER, image_uri="", image_sha256=""))
    assert parent.log[:2] == [
        "amazon-linux-extras install -y aws-nitro-enclaves-cli", "yum install -y docker aws-nitro-enclaves-cli-devel",
    ]  # fmt: skip


def test_the_configuration_of_another_enclave_is_refused(parent):
    refused = parent.agent("install --enclave other", SSM_Config=configuration())
    assert "another enclave" in refused.stderr


@pytest.mark.parametrize("name", ["../etc", "a b", "", "A", "a" * 33, "$(reboot)"])
def test_a_name_that_is_no_name_goes_nowhere(parent, name):
    refused = parent.agent(f"verify --enclave '{name}'")
    assert refused.returncode == 1
    assert "[agent/name]" in refused.stderr


# Health, attest, ask


def test_a_healthy_enclave_is_healthy_at_once_and_attests(parent):
    _running(parent)
    assert json.loads(parent.step("health").stdout) == {"status": "healthy", "enclave_id": "i-1-enc1", "attested": True}


@pytest.mark.parametrize(
    "change",
    [
        {"Flags": "DEBUG_MODE"},
        {"EnclaveCID": 17},
        {"MemoryMiB": 128},
        {"NumberOfCPUs": 4},
        {"Measurements": {**pcrs("00"), "PCR2": "33" * 48}},
    ],
)
def test_a_wrong_enclave_under_our_name_is_not_healthy(parent, change):
    _running(parent, **change)
    assert "[agent/wrong-enclave]" in parent.step("health").stderr


def test_an_enclave_that_attests_otherwise_is_not_healthy(parent):
    """nitro-cli shows the build's PCRs whatever runs (aws-nitro-enclaves-cli issue 695): the document tells."""
    _running(parent, "aa")
    parent.control.lied = True
    refused = parent.step("health")
    assert "[agent/attestation]" in refused.stderr
    assert "PCR0" in refused.stderr


def test_an_enclave_that_ended_is_not_waited_for(parent):
    _running(parent)
    (parent.folder / "var/fake/enclaves/hello.json").unlink()
    # Whoever waited would do so for longer than a program of the tests may take.
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration(healthy_within=600))
    assert "[agent/not-running]" in parent.step("health").stderr


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
@pytest.mark.parametrize("command", ["attest --nonce AAAA", "logs", "follow"])
def test_a_hostile_enclave_gets_an_error_and_no_traceback(parent, answer, command):
    _running(parent)
    parent.control.answers[16] = answer
    refused = parent.step(command)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "agent/" in refused.stderr


def test_attest_prints_one_line_of_json(parent):
    _running(parent)
    parent.control.answers[16] = frame({"document": "ZG9j"})
    done = parent.step("attest --nonce AAAA")
    assert json.loads(done.stdout) == {"document": "ZG9j", "enclave_id": "i-1-enc1"}
    assert done.stdout.count("\n") == 1


def test_an_enclaves_own_nonce_needs_a_base_and_the_instances_id(parent):
    _running(parent)
    refused = parent.step("attest --nonce AAAAAAAAAAAAAAAAAAAAAA== --nonce-for instance")
    assert "[agent/no-instance-id]" in refused.stderr
    refused = parent.step("attest --nonce @ --nonce-for instance", AWS_SSM_INSTANCE_ID="i-1")
    assert "[agent/nonce]" in refused.stderr


def test_without_credentials_nothing_is_sent(parent):
    _running(parent)
    refused = parent.run(
        f"echo '{{}}' | {AGENT} ask --enclave hello --port 5001 --with-credentials", AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9"
    )
    assert "[agent/no-credentials]" in refused.stderr
    refused = parent.run(f"echo nonsense | {AGENT} ask --enclave hello")
    assert "[agent/request]" in refused.stderr


# Configurations


@pytest.mark.parametrize(
    "change",
    [
        {"proxies": [{"vsock_port": 8001, "host": "a\nExecStart=/bin/sh", "port": 443}]}, {"proxies": [{"vsock_port": 3, "host": "a", "port": 443}]},
        {"proxies": [{"vsock_port": 9, "host": "a", "port": 0}]}, {"proxies": [{"vsock_port": 8000, "host": "a", "port": 443}]},
        {"measurements": {}}, {"measurements": {"PCR0": "00" * 48}}, {"measurements": {**pcrs("00"), "PCR0": ""}}, {"image_uri": "--recursive"}, {"image_sha256": "x"},
        {"cid": 3}, {"cpu_count": 0}, {"memory_mib": 0}, {"name": "../x"}, {"proxies": None}, {"cpu_count": "two"}, {"docker_uri": "a/b:c"},
        {"docker_uri": "--x/y:z", "image_uri": "", "image_sha256": ""},
        {"log_group": "a b"}, {"parameter": "$(x)"}, {"group": "\n"}, {"image_version": "--x y"}, {"healthy_within": 0},
        {"cid": float("inf")}, {"pool": [{"name": "x", "cpu_count": 0, "memory_mib": 64}]},
    ],
)  # fmt: skip
def test_a_configuration_that_could_do_harm_is_refused(change):
    with pytest.raises(AgentError):
        parse(configuration(**change))


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("kms.cn-north-1.amazonaws.com", "cn-north-1"),
        ("kms.us-east-1.amazonaws.com", "cn-north-1"),
        ("kms.cn-north-1.amazonaws.com.cn", "us-east-1"),
    ],
)
def test_an_endpoint_of_another_partition_is_refused(parent, host, region):
    parent.up(configuration(proxies=[{"vsock_port": 8001, "host": host, "port": 443}]), STEPS[:4])
    (parent.folder / "var/lib/nitrokit/hello/current.json").write_text(
        configuration(proxies=[{"vsock_port": 8001, "host": host, "port": 443}])
    )
    refused = parent.agent("serve --enclave hello", AWS_DEFAULT_REGION=region)
    assert "[agent/partition]" in refused.stderr


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
    _running(parent)
    parent.step("health", **environment)
    assert [(kind, one["Status"], one["UniqueId"]) for kind, one in got] == [("", "FAILURE", "i-1.hello"), ("", "SUCCESS", "i-1.hello")]
    assert got[0][1]["Reason"].startswith("image: finding the image failed [agent/image]; got: An error occurred (403)")
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
    path.write_bytes(_changed(path.read_bytes(), "host/packages.py", b"shutil.which", b"shutil.whither"))
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
    ((_, told),) = got
    assert (told["Status"], told["UniqueId"], cause in told["Reason"]) == ("FAILURE", "i-1.hello", True)
    assert not list((parent.folder / "opt/nitrokit").glob(".agent*"))


def test_nobody_who_waits_is_no_failure(parent):
    _running(parent)
    done = parent.step("health", SSM_Signal="http://127.0.0.1:9/x?X-Amz-Signature=secret")
    assert done.returncode == 0
    assert "was not told" in done.stderr
    assert "secret" not in done.stderr


# Diagnostics


def test_diagnostics_hold_what_helps_and_no_secret(parent, tmp_path):
    import tarfile

    parent.up(steps=STEPS[:4])
    log = parent.folder / "var/log/nitro_enclaves/nitro_enclaves.log"
    log.parent.mkdir(parents=True)
    secrets = ["AKIAABCDEFGHIJKLMNOP", "wJalrXUtnFEMI", "FwoGZXIvYXdzE", "hunter2", "MIIEpAIBAAKCAQEA", "0123abcdsigned"]
    secrets += ["b3BlbnNlc2FtZQ", "hunter3", "hunter4", "eyJhbGciOiJIUzI1NiJ9", "IQoJb3JpZ2luX2VjE", "hunter5", "K7MDENGbPxRfiCYEXAMPLEKEY"]
    log.write_text(
        f'starting\nkey {secrets[0]}\naws_secret_access_key = {secrets[1]}\nAWS_SESSION_TOKEN={secrets[2]}\n"password": "{secrets[3]}"\n'
        f"-----BEGIN RSA PRIVATE KEY-----\n{secrets[4]}\n-----END RSA PRIVATE KEY-----\nhttps://bucket/x?X-Amz-Signature={secrets[5]}&y=1\nE29 happened\n"
        f"Authorization: Bearer {secrets[6]}\nhttps://user:{secrets[7]}@host/\ndocker login --password {secrets[8]} registry\njwt {secrets[9]}.e30.c2ln\nheader {secrets[10]}//wEaCXVz\n"
        f'got: {{\\"password\\": \\"{secrets[11]}\\"}}\nSecretAccessKey\\\\\\": \\\\\\"{secrets[12]}\n'
    )
    archive = json.loads(parent.agent("diagnose --upload s3://bucket/support/").stdout)
    assert any(line.startswith("aws s3 cp --only-show-errors /var/lib/nitrokit/diagnostics/nitrokit-") for line in parent.log)
    with tarfile.open(parent.folder / archive["archive"].lstrip("/")) as bundle:
        bundle.extractall(tmp_path, filter="data")
    texts = {str(one.relative_to(tmp_path)): one.read_text() for one in tmp_path.rglob("*") if one.is_file()}
    whole = "\n".join(texts.values())
    assert [one for one in secrets if one in whole] == []
    assert "E29 happened" in whole
    assert json.loads(texts["status.json"])["enclaves"][0]["name"] == "hello"
    assert {"files/etc/nitrokit/hello.json", "files/etc/nitro_enclaves/allocator.yaml", "commands/describe-enclaves.txt"} <= set(texts)
