"""The agent among programs that fail: nitro-cli and the allocator that refuse or lie, hostile enclaves, damaged configurations. The programs are scripts; the agent is the deployed file."""

import json
import socket
import struct
import subprocess
import threading

import pytest
from fakeparent import AGENT, DOCKER, STEPS, configuration, frame, kill_when_hanging, pcrs, pretend_running

from nitrokit.host.codes import NITRO_CLI, allocator_code
from nitrokit.host.config import AgentError, parse

AMAZON_LINUX_2 = 'NAME="Amazon Linux"\nVERSION="2"\nID="amzn"\nVERSION_ID="2"\n'


@pytest.fixture
def parent(fake_parent):
    return fake_parent


# The pool


def test_an_allocation_that_was_killed_half_way_is_done_again(parent):
    parent.up(steps=STEPS[:1])
    parent.fault("allocator", "hang")
    kill_when_hanging(parent, "allocate")
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


@pytest.mark.parametrize("step", [*STEPS[1:], "resume", "rotate", "follow", "serve"])
def test_before_install_each_step_names_the_step_that_is_missing(parent, step):
    refused = parent.step(step)
    assert (refused.returncode, refused.stdout, "[agent/no-config]" in refused.stderr) == (1, "", True), refused.stderr
    assert ("run the run step" if step == "serve" else "run the install step first") in refused.stderr
    assert not (parent.folder / "var/lib/nitrokit/hello").exists()


@pytest.mark.parametrize("damage", [b"", b"\0" * 400, b"\xff\xfe", b"[1]", configuration().encode()[:-9], b'"\xff"'])
def test_a_damaged_configuration_is_told_as_such_whatever_the_disk_made_of_it(parent, damage):
    parent.up(steps=STEPS[:1])
    (parent.folder / "etc/nitrokit/hello.json").write_bytes(damage)
    state = parent.folder / "var/lib/nitrokit/hello"
    state.mkdir(parents=True, exist_ok=True)
    (state / "current.json").write_bytes(damage)
    for step in ("verify", "health", "serve"):
        refused = parent.agent(f"{step} --enclave hello")
        assert (refused.returncode, "[agent/config]" in refused.stderr, "do: deploy again" in refused.stderr) == (1, True, True), (
            refused.stderr
        )


# Installing


def test_an_ssm_agent_that_hands_no_parameters_over_is_named_with_the_version_that_does(parent):
    refused = parent.agent("install --enclave hello")
    assert (refused.returncode, "[agent/old-ssm-agent]" in refused.stderr, "3.3.2746.0" in refused.stderr) == (1, True, True)
    assert (parent.log, list((parent.folder / "etc/nitrokit").glob("*"))) == ([], []), "nothing was installed for nothing"
    assert "[agent/config]" in parent.agent("install --enclave hello", SSM_Config="").stderr, "it arrived, and holds nothing"


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
    (parent.folder / "etc/os-release").write_text(AMAZON_LINUX_2)
    for name in ("amazon-linux-extras", "yum"):
        parent.program(name, f'#!/bin/sh\necho "{name} $*" >> /var/fake/log\n')
    parent.program("docker", "#!/bin/sh\n")
    (parent.folder / "bin/nitro-cli").rename(parent.folder / "bin/.nitro-cli")
    parent.step("install", configuration(docker_uri=DOCKER, image_uri="", image_sha256=""))
    assert parent.log[:2] == [
        "amazon-linux-extras install -y aws-nitro-enclaves-cli", "yum install -y docker aws-nitro-enclaves-cli-devel",
    ]  # fmt: skip


def test_amazon_linux_2_still_works_and_its_end_of_support_is_told(parent):
    assert "warning" not in parent.up(steps=["install"])
    (parent.folder / "etc/os-release").write_text(AMAZON_LINUX_2)
    assert "2026-06-30" in parent.up(steps=["install"])["warning"]


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
    pretend_running(parent)
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
    pretend_running(parent, **change)
    assert "[agent/wrong-enclave]" in parent.step("health").stderr


def test_an_enclave_that_attests_otherwise_is_not_healthy(parent):
    """nitro-cli shows the build's PCRs whatever runs (aws-nitro-enclaves-cli issue 695): the document tells."""
    pretend_running(parent, "aa")
    parent.control.lied = True
    refused = parent.step("health")
    assert "[agent/attestation]" in refused.stderr
    assert "PCR0" in refused.stderr


def test_an_enclave_that_ended_is_not_waited_for(parent):
    pretend_running(parent)
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
    pretend_running(parent)
    parent.control.answers[16] = answer
    refused = parent.step(command)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "agent/" in refused.stderr


def _listen(parent, port):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(parent.folder / f"run/vsock/16_{port}"))
    listener.listen(16)
    return listener


def test_an_app_that_closes_before_it_answers_is_asked_once(parent):
    """What was sent may have been done: a payment is not made again."""
    pretend_running(parent)
    asked = []

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(1000)[4:])

    with _listen(parent, 5000) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        refused = parent.run(f"echo '{{}}' | {AGENT} ask --enclave hello")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (refused.returncode, refused.stdout, asked) == (1, "", [b"{}"])
    assert "does not answer on port 5000 [agent/no-answer]; got: the connection ended in the middle of an answer" in refused.stderr


def test_an_enclave_that_nothing_listens_in_does_not_answer(parent):
    """The kernel runs, and init does not: nitro-cli shows it as running."""
    pretend_running(parent)
    (parent.folder / "run/vsock/16_5001").unlink()
    for command in ("attest --nonce AAAA", "logs", "follow", "health"):
        refused = parent.step(command)
        assert (refused.returncode, "port 5001 [agent/no-answer]" in refused.stderr) == (1, True), (command, refused.stderr)


@pytest.mark.parametrize(("size", "code"), [(1 << 20, ""), ((1 << 20) + 1, "[agent/answer]")])
def test_an_answer_of_a_mebibyte_is_the_largest_that_is_read(parent, size, code):
    pretend_running(parent)
    text = json.dumps({"document": ""})
    parent.control.answers[16] = struct.pack(">I", size) + text.encode() + b" " * (size - len(text))
    done = parent.step("attest --nonce AAAA")
    assert (done.returncode, code in done.stderr) == (int(bool(code)), True), done.stderr


@pytest.mark.parametrize(
    "state",
    [
        {"status": "ok", "app": "ended with 1", "ready": True}, {"status": "ok", "app": "running", "ready": False}, {"status": "starting", "app": "running"},
        {"status": "ok"}, {}, {"error": {"code": "busy"}},
    ],
)  # fmt: skip
def test_an_enclave_that_says_it_is_not_well_is_not_healthy_and_its_words_are_told(parent, state):
    pretend_running(parent)
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration(healthy_within=1))
    parent.control.answers[16] = frame(state)
    refused = parent.step("health")
    assert (refused.returncode, refused.stdout, f"[agent/unhealthy]; got: {state}; do: read its log" in refused.stderr) == (1, "", True)


def test_an_app_that_says_nothing_of_being_ready_is_ready(parent):
    pretend_running(parent)
    parent.control.answers[16] = frame({"status": "ok", "app": "running"})
    assert "[agent/attestation]" in parent.step("health").stderr, "it was taken for healthy, and asked for its document"


def test_an_enclave_without_nitrokits_init_is_healthy_while_it_runs(parent):
    pretend_running(parent)
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration(control_port=0))
    parent.control.answers[16] = b""
    done = parent.step("health")
    assert (done.returncode, json.loads(done.stdout or "{}").get("attested")) == (0, False), done.stderr


_LOOKS = """import sys, time
sys.path.insert(0, "/opt/nitrokit/agent.pyz")
from nitrokit.host import health
from nitrokit.host.config import AgentError, parse
watch, begun = health.Watch(parse(open("/etc/nitrokit/hello.json").read())), time.monotonic()
for line in sys.stdin:
    later = begun + float(line)
    health.time.monotonic = lambda: later
    try:
        print(watch.look()["enclave"]["Flags"], flush=True)
    except AgentError as error:
        print(error.slug, flush=True)
"""


@pytest.fixture
def look(parent):
    """What a watch says so many seconds after it began."""
    pretend_running(parent)
    command = [*parent.sandbox(), "/opt/nitrokit/python3", "-c", _LOOKS]
    with subprocess.Popen(command, env=parent.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None and answers is not None

        def once(seconds):
            print(seconds, file=questions, flush=True)
            return answers.readline().strip()

        yield once
        questions.close()


def _listings(parent):
    return sum(line == "nitro-cli describe-enclaves" for line in parent.log)


def test_an_enclave_that_answers_is_listed_once_a_minute(parent, look):
    """Each nitro-cli call is a process, and lines in its log."""
    assert [look(seconds) for seconds in (0, 5, 10, 59)] == ["NONE"] * 4
    assert _listings(parent) == 1
    assert look(61) == "NONE"
    assert _listings(parent) == 2


def test_an_enclave_that_ended_or_is_another_one_is_noticed(parent, look):
    assert look(0) == "NONE"
    pretend_running(parent, Flags="DEBUG_MODE")
    assert look(61) == "wrong-enclave"
    pretend_running(parent)
    assert look(62) == "NONE"
    parent.control.answers[16] = b""
    assert look(63) != "NONE"
    (parent.folder / "var/fake/enclaves/hello.json").unlink()
    assert look(64) == "not-running"


def test_attest_prints_one_line_of_json(parent):
    pretend_running(parent)
    parent.control.answers[16] = frame({"document": "ZG9j"})
    done = parent.step("attest --nonce AAAA")
    assert json.loads(done.stdout) == {"document": "ZG9j", "enclave_id": "i-1-enc1"}
    assert done.stdout.count("\n") == 1


def test_an_enclaves_own_nonce_needs_a_base_and_the_instances_id(parent):
    pretend_running(parent)
    refused = parent.step("attest --nonce AAAAAAAAAAAAAAAAAAAAAA== --nonce-for instance")
    assert "[agent/no-instance-id]" in refused.stderr
    refused = parent.step("attest --nonce @ --nonce-for instance", AWS_SSM_INSTANCE_ID="i-1")
    assert "[agent/nonce]" in refused.stderr


def test_without_credentials_nothing_is_sent(parent):
    pretend_running(parent)
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
