"""SSM documents and units, checked by what checks such things: a schema, shellcheck, systemd's own checker."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
from fakeparent import configuration

from nitrokit.host.renderer import MAX_DOCUMENT, render_document

SCHEMA = json.loads(Path(__file__).with_name("ssm_documents.schema.json").read_text())
# Braces and [[ ]] as style; and variables that the SSM Agent sets, which shellcheck cannot see.
EXCLUDED = "--exclude=SC2250,SC2292,SC2154"
COMMANDS = ("bootstrap", "attest", "operate", "status")


def _document(name):
    values = (
        {}
        if name != "runbook"
        else {"config": configuration(), "agent_uri": "s3://b/k", "agent_sha256": "0" * 64, "bootstrap": "Bootstrap", "operate": "Operate"}
    )
    return render_document(f"{name}.json.j2", name="hello", **values)


@pytest.mark.parametrize("name", [*COMMANDS, "runbook"])
def test_documents_are_what_systems_manager_takes(name):
    document = _document(name)
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)
    # A configuration with four enclaves' proxies goes along as a parameter, and counts.
    assert len(json.dumps(document)) + len(configuration()) * 4 < MAX_DOCUMENT


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_take_no_parameter_into_a_command_line(name):
    document = _document(name)
    assert all(one["interpolationType"] == "ENV_VAR" for one in document.get("parameters", {}).values())
    assert "{{" not in json.dumps(document)


def test_the_schema_refuses_what_the_service_would_ignore():
    document = _document("bootstrap")
    document["mainSteps"][0]["inputs"]["timeoutSeconds"] = "200000"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
    document = _document("bootstrap")
    document["parameters"]["Config"]["interpolationtype"] = "ENV_VAR"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_the_runbooks_steps_and_parameters_exist():
    """What the schema cannot see: references between steps, to parameters, and to the parameters of the documents that are run."""
    runbook = _document("runbook")
    steps = {step["name"]: step for step in runbook["mainSteps"]}
    choices = steps["choose"]["inputs"]
    assert {one["NextStep"] for one in choices["Choices"]} | {choices["Default"]} <= set(steps)
    assert set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(runbook["mainSteps"]) + runbook["assumeRole"])) <= set(runbook["parameters"])
    for name, document in (("replace", "bootstrap"), ("operate", "operate")):
        declared = _document(document)["parameters"]
        given = steps[name]["inputs"]["Parameters"]
        assert set(given) <= set(declared)
        assert {key for key, one in declared.items() if "default" not in one} <= set(given)
    operations = re.fullmatch(r"\^\((.*)\)\$", _document("operate")["parameters"]["Action"]["allowedPattern"])
    assert operations is not None
    assert {*runbook["parameters"]["Action"]["allowedValues"]} - {"replace"} <= set(operations.group(1).split("|"))


@pytest.mark.parametrize("name", COMMANDS)
def test_shellcheck_has_nothing_to_say_of_the_scripts(name):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: shellcheck)")
    for step in _document(name)["mainSteps"]:
        script = "#!/bin/sh\n" + "\n".join(step["inputs"]["runCommand"]) + "\n"
        done = subprocess.run(
            ["shellcheck", "--shell=sh", "--enable=all", EXCLUDED, "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "", done.stdout


def test_systemds_checker_has_nothing_to_say_of_the_units(booted_parent):
    booted_parent.up(configuration(log_group="/nitrokit/hello"))
    units = sorted(path.name for path in (booted_parent.folder / "etc/systemd/system").glob("nitrokit-*"))
    assert units == ["nitrokit-enclave-hello.service", "nitrokit-logs-hello.service", "nitrokit-vsock-proxy-8001.service"]
    done = booted_parent.run("systemd-analyze verify --man=no " + " ".join(f"/etc/systemd/system/{unit}" for unit in units))
    # The one program that only Amazon Linux has.
    said = [line for line in done.stderr.splitlines() if "/usr/bin/vsock-proxy is not executable" not in line]
    assert said == []
