"""How commands end when what is around them fails: readers that leave, full disks, Ctrl-C, bytes that are no text, words that forge lines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nitrokit.cli.__main__ import run

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "nitrokit.cli"]
# A region and credentials that lead nowhere, should anything be sent.
AWS = {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


def shell(words, **environment):
    """Its exit code and what it says on stderr, by a shell that tells of the command's own end in a pipeline."""
    command = f"set -o pipefail; {words}".replace("nitrokit", " ".join(COMMAND))
    done = subprocess.run(
        ["bash", "-c", command], stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, **environment}, timeout=120, check=False
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "ending"),
    [
        ("nitrokit doctor --json | true", (141, "")),
        ("nitrokit measure README.md 2>&1 | true", (141, "")),
        ("nitrokit --help | true", (141, "")),
        ("nitrokit --version >&-", (0, "")),
    ],
)
def test_a_reader_that_leaves_gets_neither_a_yes_nor_a_no(words, ending, unbuffered):
    assert shell(words, PYTHONUNBUFFERED=unbuffered) == ending


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_finds_no_room_is_an_error_and_no_noise(unbuffered):
    code, said = shell("nitrokit --version > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (code, said.splitlines()[-1].split()) == (3, ["do", "this:", "make", "room"])
    assert "Exception ignored" not in said


def test_ctrl_c_ends_in_peace_while_the_commands_still_load(tmp_path):
    """A module that loads slowly stands for a cold disk."""
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path(__file__).with_name('loading').touch()\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([*COMMAND, "--help"], stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not (tmp_path / "loading").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=60)[1], process.returncode) == ("interrupted\n", 130)


def test_bytes_that_are_no_text_are_the_callers(capsys, monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    assert run(["gate", str(ROOT / "enclave_images" / "hello"), "--stack", "\udcff"]) == 2
    assert "usage/not-text" in capsys.readouterr().err


def test_json_holds_errors_of_usage_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nitrokit", "measure", "--json"])
    assert run(["measure", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage/arguments"


def test_a_name_that_looks_like_markup_or_breaks_lines_is_told_as_it_is(tmp_path, capsys):
    folder = tmp_path / "a[/b]\nforged"
    folder.mkdir(parents=True)
    (folder / "enclave.toml").write_text('[enclave]\nname = "x"\n[eif]\npath = "nowhere"\n')
    assert run(["build", str(folder), "-o", str(tmp_path / "x.eif")]) == 2
    told = capsys.readouterr().err
    assert f"✗ build {tmp_path}/a[/b]\\nforged" in told
    assert [path.name for path in tmp_path.iterdir()] == ["a["]


FORGED = "x\nPASS       authentic, and of an accepted image\x1b[8m"


def test_a_document_cannot_forge_lines_of_the_verdict(tmp_path, capsys, vectors):
    document = next((vectors / "attestation").iterdir()).read_bytes().hex()
    (tmp_path / "x.json").write_text(json.dumps({FORGED: document, "\ud800": ["\ud800", document]}))
    assert run(["verify", str(tmp_path / "x.json")]) == 1
    told = capsys.readouterr().out
    assert ("PASS" not in [line.split(" ")[0] for line in told.splitlines()], "\x1b" in told, "x\\nPASS" in told) == (True, False, True)


def test_a_policy_cannot_forge_lines_of_the_verdict(tmp_path, capsys):
    statement = {"Sid": FORGED, "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*"}
    (tmp_path / "x.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    assert run(["check-policy", str(tmp_path / "x.json"), "--account", "123456789012"]) == 1
    told = capsys.readouterr().out
    assert ("PASS" not in [line.split(" ")[0] for line in told.splitlines()], "\x1b" in told, "x\\nPASS" in told) == (True, False, True)
