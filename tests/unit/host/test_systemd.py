"""The agent under a real systemd: the unit keeps an enclave up, goes back to the last good image, and survives kills and losses of power."""

import json
import tarfile
import time

import pytest
from fakeparent import AGENT, BROKEN, PYTHON, STEPS, configuration, pcrs, published

from nitrokit.host.renderer import render_document

TWO = [{"name": "hello", "cpu_count": 2, "memory_mib": 256}, {"name": "other", "cpu_count": 2, "memory_mib": 900}]


@pytest.fixture
def parent(booted_parent):
    return booted_parent


def _launches(parent):
    return len([line for line in parent.log if line.startswith("nitro-cli run-enclave")])


def _wait(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(parent, mark, name="hello"):
    return [one["Measurements"]["PCR0"][:2] for one in parent.enclaves() if one["EnclaveName"] == name] == [mark]


def _unit(parent, key, name="hello"):
    return parent.run(f"systemctl show --value --property {key} nitrokit-enclave-{name}").stdout.strip()


def test_the_steps_bring_an_enclave_up_and_repeating_them_changes_nothing(parent):
    first = parent.up()
    assert first["attested"] is True
    before = len(parent.log)
    assert parent.up()["enclave_id"] == first["enclave_id"]
    assert not [line for line in parent.log[before:] if "run-enclave" in line or "get-object" in line or line in ("allocator", "dnf")]
    status = json.loads(parent.agent("status").stdout)
    assert status["enclaves"][0]["as_wanted"] is True
    assert status["enclaves"][0]["last"]["status"] == "running"
    assert status["pool"] == {"cpus": [2, 3], "memory_mib": 256}


def test_a_new_image_replaces_the_old_one(parent):
    parent.up()
    parent.up(configuration("aa"))
    assert _runs(parent, "aa")
    images = [path.name for path in (parent.folder / "var/lib/nitrokit/hello/images").iterdir()]
    assert len(images) == 2  # the one before stays until the next
    parent.up(configuration("00"))
    assert _runs(parent, "00")


@pytest.mark.parametrize(
    ("mark", "fault", "cause"), [("aa", "E36*4", "E36"), ("aa", "vanish", "not-running"), (BROKEN, "", "ended with 1")]
)
def test_an_update_that_fails_goes_back_and_fails_the_step(parent, mark, fault, cause):
    parent.up()
    parent.up(configuration(mark), STEPS[:4])
    parent.fault("run", fault)
    process = parent.start(f"exec {AGENT} run --enclave hello")
    if fault == "vanish":
        _wait(lambda: _launches(parent) == 2)
        parent.fault("run")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "[agent/rolled-back]" in err
    assert cause in err
    assert _runs(parent, "00")
    assert _unit(parent, "ActiveState") == "active"
    status = json.loads(parent.agent("status").stdout)["enclaves"][0]
    assert (status["as_wanted"], status["last"]["status"]) == (False, "rolled-back")
    # The deployment goes back too, and finds all as it was.
    before = _launches(parent)
    parent.up()
    assert _runs(parent, "00")
    assert _launches(parent) <= before + 1


def test_what_runs_is_compliant_only_when_it_is_what_was_deployed_last(parent):
    """Also after a roll-back, in which a healthy enclave runs that nobody wants."""
    here = {"SSM_Config": configuration(parameter="/p"), "AWS_SSM_INSTANCE_ID": "i-1"}
    for step in STEPS:
        assert parent.agent(f"{step} --enclave hello", **here).returncode == 0
    _wait(lambda: published(parent) == ("running", "COMPLIANT"))
    here["SSM_Config"] = configuration(BROKEN, parameter="/p")
    assert [parent.agent(f"{step} --enclave hello", **here).returncode for step in STEPS[:5]] == [0, 0, 0, 0, 1]
    assert published(parent)[1] == "NON_COMPLIANT"
    parent.run("systemctl restart nitrokit-enclave-hello")
    _wait(lambda: published(parent) == ("outdated", "NON_COMPLIANT"))
    assert _runs(parent, "00")
    parent.agent("drain --enclave hello")
    assert published(parent) == ("drained", "NON_COMPLIANT")


def test_who_repeats_a_step_by_hand_need_not_say_where_he_is_and_disturbs_nothing(parent):
    here = {"SSM_Config": configuration(parameter="/p"), "AWS_SSM_INSTANCE_ID": "i-1", "AWS_DEFAULT_REGION": "eu-west-1"}
    for step in STEPS:
        assert parent.agent(f"{step} --enclave hello", **here).returncode == 0
    before = parent.enclaves()
    asks = "import os; print(os.environ.get('AWS_DEFAULT_REGION'), file=open('/var/fake/region', 'w'))"
    parent.program(
        "aws", f'#!/bin/sh\n/usr/bin/python3 -S -c "{asks}"; [ "$1" != ssm ] || printf "%s\\n" "$(cat /dev/stdin)" >> /var/fake/published\n'
    )
    by_hand = f"env --unset AWS_DEFAULT_REGION --unset AWS_SSM_INSTANCE_ID {PYTHON} /opt/nitrokit/agent.pyz"
    done = parent.run(f"{by_hand} run --enclave hello")
    assert json.loads(done.stdout) == {"started": False, "enclave_id": before[0]["EnclaveID"]}
    assert parent.enclaves() == before
    assert parent.run(f"{by_hand} drain --enclave hello").returncode == 0
    assert (parent.folder / "var/fake/region").read_text() == "eu-west-1\n"
    assert published(parent) == ("drained", "NON_COMPLIANT")


def test_a_hung_agent_is_killed_by_the_watchdog_and_finds_its_enclave_again(parent):
    parent.up(steps=STEPS[:4])
    drop_in = parent.folder / "etc/systemd/system/nitrokit-enclave-hello.service.d/sooner.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nWatchdogSec=10\n")
    before = parent.up(steps=STEPS[4:])["enclave_id"]
    assert _unit(parent, "WatchdogUSec") == "10s"
    parent.run("kill -STOP " + _unit(parent, "MainPID"))
    _wait(lambda: _unit(parent, "NRestarts") != "0" and _unit(parent, "ActiveState") == "active", 120)
    assert [one["EnclaveID"] for one in parent.enclaves()] == [before]
    assert "watchdog" in parent.run("journalctl --no-pager --output cat --unit nitrokit-enclave-hello").stdout.lower()


@pytest.mark.parametrize("action", ["rotate", "resume"])
def test_what_keeps_a_fresh_enclave_from_running_is_told(parent, action):
    parent.up()
    if action == "resume":
        _operate(parent, "drain")
    parent.fault("run", "E27")
    refused = parent.agent(f"{action} --enclave hello")
    assert refused.returncode == 1
    assert "[ E27 ]" in refused.stderr
    parent.fault("run")
    _wait(lambda: _unit(parent, "ActiveState") == "active")


def test_a_first_image_that_fails_is_tried_until_it_comes_up(parent):
    parent.fault("run", "E36")
    refused = parent.steps()
    assert refused.returncode == 1
    assert "[ E36 ]" in refused.stderr
    assert "debug mode" in refused.stderr
    parent.fault("run")
    _wait(lambda: _unit(parent, "ActiveState") == "active")
    assert _runs(parent, "00")


@pytest.mark.parametrize("step", ["image", "verify"])
def test_what_is_wrong_before_the_run_step_leaves_the_running_enclave_alone(parent, step):
    before = parent.up()["enclave_id"]
    changed = configuration("aa", measurements=pcrs("cc")) if step == "verify" else configuration("aa", image_sha256="0" * 64)
    refused = parent.steps(changed)
    assert refused.returncode == 1
    assert "[agent/drift]" in refused.stderr or "[agent/image-sha256]" in refused.stderr
    assert [one["EnclaveID"] for one in parent.enclaves()] == [before]
    assert _launches(parent) == 1


def test_an_enclave_that_ends_is_started_again(parent):
    parent.up()
    (parent.folder / "var/fake/enclaves/hello.json").unlink()
    _wait(lambda: _runs(parent, "00"))


def test_a_killed_agent_finds_its_enclave_again(parent):
    parent.up()
    before = parent.enclaves()
    parent.run("kill -9 " + _unit(parent, "MainPID"))
    _wait(lambda: _unit(parent, "NRestarts") == "1" and _unit(parent, "ActiveState") == "active")
    assert parent.enclaves() == before


def test_an_enclave_that_hangs_under_a_killed_agent_is_replaced(parent):
    before = parent.up()["enclave_id"]
    parent.control.answers[16] = b""
    parent.run("kill -9 " + _unit(parent, "MainPID"))
    _wait(lambda: parent.enclaves() and parent.enclaves()[0]["EnclaveID"] != before)
    del parent.control.answers[16]
    _wait(lambda: _unit(parent, "ActiveState") == "active")


def test_another_agent_takes_over_without_ending_the_enclave(parent):
    parent.up()
    before, pid = parent.enclaves(), _unit(parent, "MainPID")
    digest = lambda: json.loads((parent.folder / "var/lib/nitrokit/hello/outcome.json").read_text())["agent"]  # noqa: E731
    old = digest()
    path = parent.folder / "opt/nitrokit/agent.pyz"
    path.write_bytes(path.read_bytes() + b"\0")  # a zip may have a tail
    done = json.loads(parent.steps(steps=STEPS[:5]).stdout)
    assert done["started"] is False
    _wait(lambda: digest() != old)
    assert (parent.enclaves(), _unit(parent, "MainPID"), _unit(parent, "ActiveState")) == (before, pid, "active")


def test_after_a_loss_of_power_all_is_there_again(parent):
    parent.up(configuration(pool=TWO))
    parent.up(configuration("aa", "other", 17, memory_mib=900, pool=TWO), name="other")
    parent.cut()
    assert parent.enclaves() == []
    parent.boot()
    _wait(lambda: _runs(parent, "00") and _runs(parent, "aa", "other"))


def test_an_update_cut_off_by_a_loss_of_power_goes_back_at_the_next_boot(parent):
    parent.up()
    parent.up(configuration(BROKEN, healthy_within=600), STEPS[:4])
    process = parent.start(f"exec {AGENT} run --enclave hello")
    _wait(lambda: _runs(parent, BROKEN))
    parent.cut()
    process.communicate()
    # Nobody deploys again: the unit decides.
    (parent.folder / "var/lib/nitrokit/hello/current.json").write_text(configuration(BROKEN))
    parent.boot()
    _wait(lambda: _runs(parent, "00") and _unit(parent, "ActiveState") == "active")


# Several enclaves on one parent


def test_one_pool_holds_all_and_the_second_enclave_disturbs_none(parent):
    first = parent.up(configuration(pool=TWO))
    parent.up(configuration("aa", "other", 17, memory_mib=900, pool=TWO), name="other")
    assert (parent.folder / "etc/nitro_enclaves/allocator.yaml").read_text() == "---\nmemory_mib: 2048\ncpu_count: 4\n"
    assert parent.log.count("allocator") == 1
    assert first["enclave_id"] in [one["EnclaveID"] for one in parent.enclaves()]


def test_a_pool_that_grows_ends_the_enclaves_and_starts_them_again(parent):
    parent.up()
    parent.up(configuration("aa", "other", 17, memory_mib=900), name="other")
    _wait(lambda: _runs(parent, "00") and _runs(parent, "aa", "other"))
    assert json.loads(parent.agent("status").stdout)["pool"]["cpus"] == [2, 3, 4, 5]


def test_a_pool_that_cannot_be_had_is_taken_back_with_the_allocators_cause(parent):
    parent.up()
    parent.fault("memory", "1000")
    refused = parent.steps(configuration("aa", "other", 17, memory_mib=900), name="other")
    assert refused.returncode == 1
    assert "[agent/allocator]" in refused.stderr
    assert "206" in refused.stderr
    assert "larger instance type" in refused.stderr
    _wait(lambda: _runs(parent, "00") and _unit(parent, "ActiveState") == "active")
    assert json.loads(parent.agent("status").stdout)["pool"] == {"cpus": [2, 3], "memory_mib": 256}
    # What the next boot reserves, too.
    assert (parent.folder / "etc/nitro_enclaves/allocator.yaml").read_text() == "---\nmemory_mib: 256\ncpu_count: 2\n"


def test_an_enclave_that_the_deployment_names_no_more_is_retired(parent):
    parent.up(configuration(pool=TWO, group="stack"))
    parent.up(configuration("aa", "other", 17, memory_mib=900, pool=TWO, group="stack"), name="other")
    parent.up(configuration(group="stack"))
    assert [one["EnclaveName"] for one in parent.enclaves()] == ["hello"]
    assert not list((parent.folder / "etc/systemd/system").glob("*other*"))
    assert not (parent.folder / "etc/nitrokit/other.json").exists()


def test_proxies_that_no_enclave_needs_any_more_are_stopped_after_the_update_and_not_before(parent):
    other = [{"vsock_port": 8002, "host": "example.org", "port": 443}]
    units = lambda: {path.name for path in (parent.folder / "etc/systemd/system").glob("nitrokit-vsock-proxy-*.service")}  # noqa: E731
    first, second = "nitrokit-vsock-proxy-8001.service", "nitrokit-vsock-proxy-8002.service"
    parent.up()
    parent.up(configuration(BROKEN, proxies=other), STEPS[:4])
    assert "[agent/rolled-back]" in parent.step("run").stderr
    assert first in units(), "the former image needs it"
    assert parent.run(f"systemctl is-active {first}").stdout == "active\n"
    parent.up(configuration("aa", proxies=other))
    assert units() == {second}
    assert parent.run(f"systemctl is-active {first}").stdout != "active\n"
    assert not (parent.folder / "etc/nitrokit/vsock-proxy-8001.yaml").exists()


def test_who_runs_is_resumed_without_another_start(parent):
    before = parent.up()["enclave_id"]
    assert json.loads(parent.agent("resume --enclave hello").stdout)["enclave_id"] == before
    assert _launches(parent) == 1


def test_somebody_elses_enclave_is_not_ended_for_our_pool(parent):
    other = {
        "EnclaveName": "theirs",
        "EnclaveID": "i-1-enc9",
        "EnclaveCID": 30,
        "State": "RUNNING",
        "Flags": "NONE",
        "Measurements": pcrs("99"),
    }
    (parent.folder / "var/fake/enclaves/theirs.json").write_text(json.dumps(other))
    refused = parent.steps()
    assert "[agent/foreign-enclave]" in refused.stderr
    assert "terminate-enclave --enclave-id i-1-enc9" in refused.stderr
    assert len(parent.enclaves()) == 1


# Day two


def _operate(parent, action):
    """By the document that the runbook runs."""
    (step,) = render_document("operate.json.j2", name="hello")["mainSteps"]
    done = parent.run(
        "\n".join(step["inputs"]["runCommand"]), SSM_Action=action, SSM_Enclave="hello", SSM_Upload="", AWS_SSM_REGION_NAME="eu-west-1"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_drained_stays_drained_until_resumed(parent):
    parent.up()
    assert _operate(parent, "drain") == {"drained": True, "ended": False}
    assert parent.enclaves() == []
    parent.cut()
    parent.boot()
    time.sleep(1)
    assert parent.enclaves() == []
    assert _operate(parent, "status")["enclaves"][0]["unit_active"] is False
    assert _operate(parent, "resume")["status"] == "healthy"


def test_rotated_is_another_enclave_of_the_same_image(parent):
    before = parent.up()["enclave_id"]
    assert _operate(parent, "rotate")["enclave_id"] != before
    assert _runs(parent, "00")


def test_what_the_app_prints_comes_into_the_journal_and_to_cloudwatch(parent):
    parent.control.lines = ["first", "second"]
    parent.up(configuration(log_group="/nitrokit/hello"), STEPS[:5])
    journal = lambda: parent.run("journalctl --no-pager --output cat SYSLOG_IDENTIFIER=enclave-hello").stdout.splitlines()  # noqa: E731
    _wait(lambda: journal()[:2] == ["first", "second"])
    parent.control.lines.append("third")
    _wait(lambda: "third" in journal())
    parent.run("systemctl restart nitrokit-logs-hello")
    time.sleep(1)
    assert journal().count("first") == 1
    sent = (parent.folder / "var/fake/published").read_text()
    assert '"message": "third"' in sent
    assert any("EnclaveHealthy" in line for line in sent.splitlines())
    # It is the app's own: an archive for support has nothing of it.
    archive = json.loads(parent.agent("diagnose").stdout)["archive"]
    with tarfile.open(parent.folder / archive.lstrip("/")) as bundle:
        texts = {name: file.read().decode() for name in bundle.getnames() if (file := bundle.extractfile(name))}
    assert "nitrokit-enclave-hello.service" in texts["commands/units.txt"]
    assert [name for name, text in texts.items() if "third" in text] == []
