"""The agent among programs that fail: nitro-cli and the allocator that refuse or lie, hostile enclaves, damaged configurations. The programs are scripts; the agent is the deployed file."""

import base64
import hashlib
import json
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from fakeparent import AGENT, DOCKER, EIF, STEPS, configuration, frame, kill_when_hanging, pcrs, pretend_running, published

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


@pytest.mark.parametrize(("cpus", "huge"), [("2", 128), ("2,3", 127), ("3", 0)])
def test_a_pool_that_lacks_either_is_reserved_anew(parent, cpus, huge):
    """A boot may have reserved less than what was there at the deployment."""
    parent.up(steps=[*STEPS[:1], "allocate"])
    (parent.folder / "sys/module/nitro_enclaves/parameters/ne_cpus").write_text(f"{cpus}\n")
    (parent.folder / "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").write_text(f"{huge}\n")
    assert parent.up(steps=["allocate"]) == {"cpus": [2, 3], "memory_mib": 256}
    assert parent.log.count("allocator") == 2


def test_huge_pages_that_enclaves_do_not_take_are_not_the_pools(parent):
    """Of ARM's 64 KiB there may be any number."""
    parent.up(steps=STEPS[:1])
    small = parent.folder / "sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages"
    small.parent.mkdir()
    small.write_text("100000\n")
    assert parent.up(steps=["allocate"])["memory_mib"] == 256


def test_a_smaller_pool_waits_until_no_enclave_runs(parent):
    big = [{"name": "hello", "cpu_count": 2, "memory_mib": 256}, {"name": "other", "cpu_count": 2, "memory_mib": 900}]
    parent.up(configuration(pool=big), [*STEPS[:1], "allocate"])
    pretend_running(parent)
    assert parent.up(steps=["allocate"])["cpus"] == [2, 3, 4, 5]
    assert (parent.log.count("allocator"), len(parent.enclaves())) == (1, 1)
    assert (parent.folder / "etc/nitro_enclaves/allocator.yaml").read_text() == "---\nmemory_mib: 256\ncpu_count: 2\n", "for the next boot"
    (parent.folder / "var/fake/enclaves/hello.json").unlink()
    parent.up(configuration(memory_mib=128), [*STEPS[:1], "allocate"])
    assert json.loads(parent.agent("status").stdout)["pool"] == {"cpus": [2, 3], "memory_mib": 128}


def test_an_enclave_of_ours_without_a_unit_is_ended_for_a_larger_pool_and_a_list_of_cpus_that_is_none_is_told(parent):
    parent.up(steps=[*STEPS[:1], "allocate"])
    pretend_running(parent)
    parent.up(configuration(memory_mib=512), [*STEPS[:1], "allocate"])
    assert parent.enclaves() == []
    (parent.folder / "sys/module/nitro_enclaves/parameters/ne_cpus").write_text("2-x\n")
    refused = parent.step("allocate")
    assert (refused.returncode, "[agent/pool]; got: 2-x" in refused.stderr) == (1, True), refused.stderr


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
    assert (refused.returncode, "[agent/too-many]" in refused.stderr) == (1, True)
    assert "allocator" not in parent.log
    (parent.folder / "etc/nitrokit/d.json").unlink()
    assert parent.up(steps=["allocate"])["cpus"] == [2, 3, 4, 5, 6, 7, 8, 9]


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


def test_what_builds_an_image_is_installed_and_docker_started_for_an_image_to_build_alone(parent):
    parent.up(steps=["install"])
    assert [line for line in parent.log if line.startswith(("dnf", "systemctl"))] == []
    parent.program("docker", "#!/bin/sh\n")  # which builds nothing without the blobs
    building = configuration(docker_uri=DOCKER, image_uri="", image_sha256="")
    assert parent.step("install", building).returncode == 0
    assert [line for line in parent.log if line.startswith(("dnf", "systemctl"))] == [
        "dnf install --assumeyes docker aws-nitro-enclaves-cli-devel", "systemctl enable --now docker",
    ]  # fmt: skip


@pytest.mark.parametrize("release", ['ID="amzn"\nVERSION_ID="2023"\n', 'ID="fedora"\nVERSION_ID="2"\n'])
def test_amazon_linux_2_is_known_by_its_name_and_version(parent, release):
    (parent.folder / "etc/os-release").write_text(release)
    (parent.folder / "bin/nitro-cli").rename(parent.folder / "bin/.nitro-cli")
    parent.step("install")
    assert parent.log == ["dnf install --assumeyes aws-nitro-enclaves-cli"]


def test_a_nitro_cli_that_is_gone_is_told_with_what_brings_it_back(parent):
    parent.up(steps=STEPS[:3])
    (parent.folder / "bin/nitro-cli").rename(parent.folder / "bin/.nitro-cli")
    refused = parent.step("verify")
    assert (refused.returncode, "[agent/nitro-cli]" in refused.stderr, "run the install step" in refused.stderr) == (1, True, True)


def test_a_nitro_cli_that_does_not_tell_its_version_is_told(parent):
    parent.fault("version", "unknown")
    refused = parent.step("install")
    assert (refused.returncode, "nitro-cli does not tell its version" in refused.stderr) == (1, True), refused.stderr


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


# The run step, and what stands beside what was to run


def _beside(parent, name, cid, **changes):
    """Another enclave, which runs."""
    (parent.folder / f"etc/nitrokit/{name}.json").write_text(configuration("aa", name, cid, **changes))
    enclave = json.loads((parent.folder / "var/fake/enclaves/hello.json").read_text())
    other = {**enclave, "EnclaveName": name, "EnclaveID": f"i-1-enc{cid}", "EnclaveCID": cid}
    (parent.folder / f"var/fake/enclaves/{name}.json").write_text(json.dumps(other) + "\n")


@pytest.mark.parametrize(("group", "left"), [("stack", ["foreign", "hello", "nobodys"]), ("", ["foreign", "former", "hello", "nobodys"])])
def test_enclaves_of_the_same_group_alone_are_retired(parent, group, left):
    """Another stack's, or one of no group, is not ours to end."""
    parent.up(steps=STEPS[:2])
    pretend_running(parent)
    for name, cid, whose in (("former", 17, "stack"), ("foreign", 18, "another"), ("nobodys", 19, "")):
        _beside(parent, name, cid, group=whose)
    parent.step("install", configuration(group=group))
    parent.step("run")  # without a systemd nothing says how it went
    assert [one["EnclaveName"] for one in parent.enclaves()] == left
    assert sorted(path.stem for path in (parent.folder / "etc/nitrokit").glob("*.json")) == left


def test_an_image_that_is_not_the_locked_one_stops_the_run_step_before_it_touches_anything(parent):
    parent.up(steps=STEPS[:2])
    pretend_running(parent)
    _beside(parent, "former", 17, group="stack")
    next((parent.folder / "var/lib/nitrokit/hello/images").iterdir()).write_bytes(b"cc" * 48 + b" another")
    parent.step("install", configuration(group="stack"))
    before = parent.log
    refused = parent.step("run")
    assert (refused.returncode, "PCR0 differ [agent/drift]" in refused.stderr) == (1, True), refused.stderr
    assert [line for line in parent.log[len(before) :] if not line.startswith(("nitro-cli describe", "aws"))] == []
    assert len(parent.enclaves()) == 2
    assert not (parent.folder / "var/lib/nitrokit/hello/current.json").exists()


def test_a_unit_that_says_nothing_of_how_it_went_is_no_success(parent):
    parent.up(steps=STEPS[:4])
    state = parent.folder / "var/lib/nitrokit/hello"
    state.mkdir(exist_ok=True)
    former = {"digest": "0" * 64, "status": "running", "enclave_id": "i-1-enc0", "agent": "", "error": None, "at": 0}
    (state / "outcome.json").write_text(json.dumps(former))
    refused = parent.step("run")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the enclave's unit did not say how it went [agent/run]" in refused.stderr


def test_the_status_tells_what_runs_beside_what_was_to_run(parent):
    status = lambda: json.loads(parent.agent("status").stdout)  # noqa: E731
    pretend_running(parent)
    _beside(parent, "theirs", 17)
    (parent.folder / "etc/nitrokit/theirs.json").unlink()
    told = status()
    (one,) = told["enclaves"]
    assert (told["foreign"], "problem" in told) == (["i-1-enc17"], False)
    assert (one["as_wanted"], one["image_here"], one["unit_active"], one["last"]) == (True, False, False, None)
    assert one["running"] == {"EnclaveID": "i-1-enc1", "EnclaveCID": 16, "State": "RUNNING", "Flags": "NONE", "Measurements": pcrs("00")}
    assert one["wanted"] == {"measurements": pcrs("00"), "cid": 16, "cpu_count": 2, "memory_mib": 256}
    pretend_running(parent, Flags="DEBUG_MODE")
    assert (status()["enclaves"][0]["as_wanted"], status()["enclaves"][0]["running"]["Flags"]) == (False, "DEBUG_MODE")
    (parent.folder / "var/fake/enclaves/hello.json").unlink()
    assert (status()["enclaves"][0]["as_wanted"], status()["enclaves"][0]["running"]) == (False, None)
    parent.fault("json", "1")
    assert (status()["enclaves"][0]["running"], "did not print JSON" in status()["problem"]) == (None, True)


@pytest.mark.parametrize(("of", "wanted"), [("hello", True), ("former", False)])
def test_the_status_tells_whether_the_last_outcome_is_of_what_is_wanted(parent, of, wanted):
    pretend_running(parent)
    state = parent.folder / "var/lib/nitrokit/hello"
    state.mkdir(parents=True)
    digest = hashlib.sha256(configuration().encode() if of == "hello" else b"").hexdigest()
    outcome = {"digest": digest, "status": "failed", "enclave_id": "", "agent": "", "error": {"code": "agent/x"}, "at": 7}
    (state / "outcome.json").write_text(json.dumps(outcome))
    last = json.loads(parent.agent("status").stdout)["enclaves"][0]["last"]
    assert last == {"status": "failed", "of_wanted": wanted, "error": {"code": "agent/x"}, "at": 7}


# Watching

_SERVES = """import sys, types
sys.path.insert(0, "/opt/nitrokit/agent.pyz")
from nitrokit.host import supervise
from nitrokit.host.config import AgentError
def wait(seconds):
    print(seconds, flush=True)
    sys.stdin.readline()
supervise.time = types.SimpleNamespace(sleep=wait)
try:
    supervise.serve("hello")
except AgentError as error:
    print(error.slug, flush=True)
"""


@pytest.fixture
def unit(parent):
    """The enclave's unit after its first look: what it does after the next one (how long it waits, or why it ends), and what it told systemd."""
    here = configuration(parameter="/p", log_group="/g")
    pretend_running(parent)
    (parent.folder / "etc/nitrokit/hello.json").write_text(here)
    (parent.folder / "var/lib/nitrokit/hello").mkdir(parents=True)
    (parent.folder / "var/lib/nitrokit/hello/current.json").write_text(here)
    environment = {**parent.environment(), "AWS_SSM_INSTANCE_ID": "i-1", "NOTIFY_SOCKET": "/run/notify"}
    command = [*parent.sandbox(), "/opt/nitrokit/python3", "-c", _SERVES]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(parent.folder / "run/notify"))
        systemd.setblocking(False)
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            questions, answers = process.stdin, process.stdout
            assert questions is not None and answers is not None

            def look():
                told()  # a queue of ten that nobody empties would hold the agent up
                print(file=questions, flush=True)
                return answers.readline().strip()

            def told():
                messages = []
                with suppress(BlockingIOError):
                    while True:
                        messages.append(systemd.recv(1000).decode())
                return messages

            try:
                assert answers.readline().strip() == "5.0"
                yield look, told
            finally:
                process.kill()


def test_an_enclave_is_given_up_when_it_is_not_well_three_times_in_a_row(parent, unit):
    look, _ = unit
    for answers in (["5.0", "5.0"], ["5.0", "5.0"], ["5.0", "5.0", "unhealthy"]):
        assert look() == "5.0"
        assert published(parent) == ("running", "COMPLIANT")
        parent.control.answers[16] = frame({"status": "ok", "app": "ended with 1"})
        assert [look() for _ in answers] == answers
        assert published(parent) == ("unhealthy", "NON_COMPLIANT")
        del parent.control.answers[16]
    assert len(parent.enclaves()) == 1, "whoever starts the unit again decides"


@pytest.mark.parametrize(("change", "cause"), [({"EnclaveName": "other"}, "not-running"), ({"Flags": "DEBUG_MODE"}, "wrong-enclave")])
def test_an_enclave_that_ended_or_is_another_one_is_given_up_at_once(parent, unit, change, cause):
    look, _ = unit
    pretend_running(parent, **change)
    parent.control.answers[16] = b""
    assert look() == cause
    assert published(parent) == ("unhealthy", "NON_COMPLIANT")


def test_systemd_hears_of_the_enclave_and_of_each_look_at_it(parent, unit):
    look, told = unit
    assert told() == [f"STATUS=starting {hashlib.sha256(EIF).hexdigest()}.eif", "READY=1\nSTATUS=enclave i-1-enc1", "WATCHDOG=1"]
    look()
    assert told() == ["WATCHDOG=1"]
    parent.control.answers[16] = b""
    look()
    assert told() == ["WATCHDOG=1"], "it is the agent that is watched"


def test_what_runs_and_is_not_what_was_deployed_last_is_outdated(parent, unit):
    look, _ = unit
    former = (parent.folder / "etc/nitrokit/hello.json").read_text()
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration("aa", parameter="/p"))
    assert (look(), published(parent)) == ("5.0", ("outdated", "NON_COMPLIANT"))
    (parent.folder / "etc/nitrokit/hello.json").unlink()
    assert (look(), published(parent)) == ("5.0", ("outdated", "NON_COMPLIANT"))
    (parent.folder / "etc/nitrokit/hello.json").write_text(former)
    assert (look(), published(parent)) == ("5.0", ("running", "COMPLIANT"))


# Bringing up, and going back


def _serve(parent, current, good=""):
    """The unit with an enclave that does not come up: its end, and what it wrote of it."""
    state = parent.folder / "var/lib/nitrokit/hello"
    state.mkdir(parents=True, exist_ok=True)
    (state / "current.json").write_text(current)
    if good:
        (state / "good.json").write_text(good)
    done = parent.agent("serve --enclave hello", AWS_SSM_INSTANCE_ID="i-1")
    return done, json.loads((state / "outcome.json").read_text())


@pytest.mark.parametrize("was_good", [False, True])
def test_where_there_is_nothing_to_go_back_to_the_cause_is_told_once(parent, was_good):
    """Nothing was ever healthy, or the very image that does not come up was: there is no former one to run instead."""
    here = configuration(parameter="/p")
    parent.up(here, STEPS[:4])
    parent.fault("run", "E27")
    done, outcome = _serve(parent, here, here if was_good else "")
    assert (done.returncode, done.stdout, "[ E27 ]" in done.stderr, "going back" in done.stderr) == (1, "", True, False), done.stderr
    assert len([line for line in parent.log if line.startswith("nitro-cli run-enclave")]) == 1
    assert (outcome["status"], outcome["digest"]) == ("failed", hashlib.sha256(here.encode()).hexdigest())
    assert "[ E27 ]" in outcome["error"]["got"]
    assert published(parent) == ("failed", "NON_COMPLIANT")
    assert (parent.folder / "var/lib/nitrokit/hello/good.json").exists() == was_good


def test_an_image_that_neither_comes_up_nor_has_a_good_former_one_is_a_failure(parent):
    """Not a roll-back: nothing runs."""
    parent.up(steps=STEPS[:4])
    parent.fault("run", "E27")
    done, outcome = _serve(parent, configuration(), configuration(cid=17))
    assert (done.returncode, "going back to the last good image" in done.stderr) == (1, True)
    assert (outcome["status"], outcome["digest"]) == ("failed", hashlib.sha256(configuration().encode()).hexdigest())
    assert (parent.folder / "var/lib/nitrokit/hello/current.json").read_text() == configuration(cid=17), "what the unit tries from now on"
    assert (parent.folder / "var/lib/nitrokit/hello/good.json").read_text() == configuration(cid=17)


def test_an_image_that_changed_after_its_deployment_is_not_run_by_the_unit(parent):
    """A boot has no verify step."""
    parent.up(steps=STEPS[:4])
    next((parent.folder / "var/lib/nitrokit/hello/images").iterdir()).write_bytes(b"cc" * 48 + b" another")
    done, outcome = _serve(parent, configuration())
    assert (done.returncode, "PCR0 differ [agent/drift]" in done.stderr, outcome["status"]) == (1, True, "failed"), done.stderr
    assert [line for line in parent.log if line.startswith("nitro-cli run-enclave")] == []


def test_a_proxy_whose_unit_is_as_it_was_goes_on_and_another_one_is_started_anew(parent):
    parent.up(steps=STEPS[:4])
    parent.fault("run", "E27")
    verbs = []
    for host in ("kms.us-east-1.amazonaws.com", "kms.us-east-1.amazonaws.com", "example.org"):
        before = len(parent.log)
        _serve(parent, configuration(proxies=[{"vsock_port": 8001, "host": host, "port": 443}]))
        lines = [line.split() for line in parent.log[before:] if line.startswith("systemctl")]
        assert ["systemctl", "enable", "nitrokit-vsock-proxy-8001.service"] in lines
        assert ["systemctl", "daemon-reload"] in lines
        verbs += [words[1] for words in lines if words[-1] == "nitrokit-vsock-proxy-8001.service" and words[1] != "enable"]
    assert verbs == ["restart", "start", "restart"]
    unit = (parent.folder / "etc/systemd/system/nitrokit-vsock-proxy-8001.service").read_text()
    assert "vsock-proxy-8001.yaml 8001 example.org 443\n" in unit
    assert (parent.folder / "etc/nitrokit/vsock-proxy-8001.yaml").read_text() == "allowlist:\n- {address: example.org, port: 443}\n"


@pytest.mark.parametrize(("ends", "code", "answer"), [(True, 0, '{"ended": true}\n'), (False, 1, "")])
def test_an_enclave_that_ended_by_itself_is_ended_and_one_that_cannot_be_is_told(parent, ends, code, answer):
    pretend_running(parent)
    _beside(parent, "other", 17)
    fake = (parent.folder / "bin/nitro-cli").read_text()
    refusal = f"terminate-enclave) {'rm $folder/hello.json; ' if ends else ''}echo '[ E11 ] gone' >&2; exit 39 ;;"
    parent.program("nitro-cli", fake.replace('case "$1" in\n', f'case "$1" in\n  {refusal}\n', 1))
    done = parent.step("terminate")
    assert (done.returncode, done.stdout, "[ E11 ]" in done.stderr) == (code, answer, bool(code)), done.stderr
    assert "other" in [one["EnclaveName"] for one in parent.enclaves()]


def test_ended_is_who_has_the_name_and_nobody_else(parent):
    pretend_running(parent)
    _beside(parent, "other", 17)
    assert json.loads(parent.step("terminate").stdout) == {"ended": True}
    assert [one["EnclaveName"] for one in parent.enclaves()] == ["other"]
    assert json.loads(parent.step("terminate").stdout) == {"ended": False}


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


def test_a_document_without_our_nonce_is_not_fresh(parent):
    """Recorded once, it would vouch for ever."""
    pretend_running(parent)
    recorded = bytes(32) + bytes.fromhex("".join(pcrs("00").values()))
    both = {"status": "ok", "app": "running", "document": base64.b64encode(recorded).decode()}
    parent.control.answers[16] = frame(both)
    refused = parent.step("health")
    assert (refused.returncode, "[agent/attestation]; got: without the nonce" in refused.stderr) == (1, True), refused.stderr
    for document in ("not base64", 7, None):
        parent.control.answers[16] = frame({**both, "document": document})
        assert "gives no attestation document [agent/attestation]" in parent.step("health").stderr


def test_an_enclave_that_is_not_up_yet_is_waited_for(parent):
    pretend_running(parent)
    (parent.folder / "etc/nitrokit/hello.json").write_text(configuration(healthy_within=60))
    parent.control.answers[16] = frame({"status": "starting"})
    process = parent.start(f"exec {AGENT} health --enclave hello")
    deadline = time.monotonic() + 30
    while _listings(parent) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    del parent.control.answers[16]
    out, err = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out or "{}").get("attested")) == (0, True), err


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
    process = parent.start(f"exec {AGENT} health --enclave hello")
    deadline = time.monotonic() + 30
    while _listings(parent) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (parent.folder / "var/fake/enclaves/hello.json").unlink()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "[agent/not-running]" in err) == (1, True), "it ended at its start"


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
    ("change", "good"),
    [
        ({"cid": 4}, True), ({"cid": 2**32 - 2}, True), ({"cid": 2**32 - 1}, False), ({"control_port": 1}, True), ({"control_port": -1}, False),
        ({"healthy_within": 1}, True), ({"healthy_within": 600}, True), ({"healthy_within": 601}, False), ({"cpu_count": 1, "memory_mib": 64}, True), ({"memory_mib": 63}, False),
        ({"pool": [{"name": name, "cpu_count": 2, "memory_mib": 64} for name in "abc"]}, True), ({"pool": [{"name": name, "cpu_count": 2, "memory_mib": 64} for name in "abcd"]}, False),
        ({"proxies": [{"vsock_port": 4, "host": "a", "port": 65535}]}, True), ({"proxies": [{"vsock_port": 4, "host": "a", "port": 65536}]}, False),
        ({"proxies": [{"vsock_port": 4, "host": "a", "port": 1}, {"vsock_port": 5, "host": "-a", "port": 1}]}, False),
        ({"measurements": {**pcrs("00"), "PCR8": "88" * 48}}, True), ({"measurements": {**pcrs("00"), "PCR8": "88" * 47}}, False),
        ({"measurements": {"PCR0": "00" * 48, "PCR1": "11" * 48}}, False), ({"measurements": {"PCR0": "00" * 48, "PCR2": "22" * 48}}, False),
        ({"measurements": {"PCR1": "11" * 48, "PCR2": "22" * 48}}, False),
        ({"image_sha256": ""}, False), ({"docker_uri": DOCKER}, False), ({"docker_uri": DOCKER, "image_uri": ""}, False), ({"docker_uri": DOCKER, "image_sha256": ""}, False),
        ({"docker_uri": DOCKER, "image_uri": "", "image_sha256": ""}, True),
    ],
)  # fmt: skip
def test_a_configuration_is_taken_up_to_its_bounds(change, good):
    if good:
        parse(configuration(**change))
    else:
        with pytest.raises(AgentError, match=r"is not allowed \[agent/config\]"):
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
    assert (refused.returncode, "[agent/partition]" in refused.stderr) == (1, True)
    assert parent.enclaves() == []


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
