"""How commands end when what is around them fails: readers that leave, full disks, Ctrl-C, bytes that are no text, words that forge lines."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nitrokit.cli.__main__ import run
from nitrokit.cli.files import write_file
from nitrokit.errors import UsageError

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


def _heed_ctrl_c():
    """A shell starts what it puts into the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_in_peace_while_the_commands_still_load(tmp_path):
    """A module that loads slowly stands for a cold disk."""
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path(__file__).with_name('loading').touch()\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([*COMMAND, "--help"], stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_heed_ctrl_c) as process:
        while process.poll() is None and not (tmp_path / "loading").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=60)[1], process.returncode) == ("interrupted\n", 130)


@pytest.mark.parametrize(("module", "words", "extra"), [("typer", ["--help"], "cli"), ("moto", ["local", "up"], "local")])
def test_an_extra_that_was_not_installed_is_named(tmp_path, module, words, extra):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, "[environment/extra]" in done.stderr, "Traceback" in done.stderr) == (3, True, False), done.stderr
    assert f"pip install './nitrokit[{extra}]'" in done.stderr


def test_bytes_that_are_no_text_are_the_callers(capsys, monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    assert run(["gate", str(ROOT / "enclave_images" / "hello"), "--stack", "\udcff"]) == 2
    assert "usage/not-text" in capsys.readouterr().err


def test_json_holds_errors_of_usage_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nitrokit", "measure", "--json"])
    assert run(["measure", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage/arguments"


def test_arguments_that_are_not_understood_are_told_as_all_errors_are_and_a_group_alone_shows_its_help(capsys):
    assert run(["gate", "--reference", "/nowhere.eif"]) == 2
    told = capsys.readouterr().err
    assert (
        "[usage/arguments]\n  got:      Invalid value for '--reference': file '/nowhere.eif' does not exist.\n  expected: nitrokit gate [OPTIONS]"
        in told
    )
    assert told.endswith("do this:  see `nitrokit gate --help`\n")
    assert run(["local"]) == 2
    assert "run   Build an image and run it by itself." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["explain", "PATH", "PATH"], "usage/long-path"),
        (["doctor", "PATH"], "usage/long-path"),
        (["local", "up", "--keep", "PATH"], "usage/long-path"),
        (["verify", "PATH"], "usage/unreadable-file"),
        (["local", "demo", "--image", "PATH"], "usage/no-image"),
        (["ledger", "verify", "PATH"], "usage/no-export"),
    ],
)
def test_a_path_that_is_too_long_is_the_callers(capsys, command, code):
    assert run([word.replace("PATH", "x" * 300) for word in command]) == 2
    told = capsys.readouterr().err
    assert ("x" * 300 in told, f"[{code}]" in told) == (True, True), told


@pytest.mark.parametrize(("length", "code"), [(255, "usage/no-folder"), (256, "usage/long-path")])
def test_a_name_of_255_bytes_is_the_longest_that_there_can_be(tmp_path, capsys, length, code):
    assert run(["doctor", str(tmp_path / ("x" * length))]) == 2
    assert f"[{code}]" in capsys.readouterr().err


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


def test_a_wrong_file_does_not_look_like_a_document_that_does_not_verify(tmp_path, capsys, vectors):
    document = str(next((vectors / "attestation").iterdir()))
    (tmp_path / "torn.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for wrong in (str(ROOT / "README.md"), str(tmp_path / "torn.pem")):
        assert run(["verify", document, "--root", wrong]) == 2
        assert run(["verify", document, "-m", str(ROOT / "enclave_images/hello"), "--signing-certificate", wrong]) == 2
    assert capsys.readouterr().err.count("usage/bad-certificate") == 4


def test_a_misspelt_partition_is_no_pass(tmp_path, capsys):
    statement = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*", "Resource": "*"}
    (tmp_path / "x.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    assert run(["check-policy", str(tmp_path / "x.json"), "--account", "123456789012", "--partition", "asw"]) == 2
    assert "usage/bad-partition" in capsys.readouterr().err
    assert run(["check-policy", str(tmp_path / "x.json"), "--account", "123456789012"]) == 1


def test_a_link_that_leads_to_itself_is_no_image(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    for command in (["build"], ["build", "--check"], ["local", "demo", "--image"], ["local", "demo", "--app"]):
        assert run([*command, str(tmp_path / "loop")]) == 2
    assert capsys.readouterr().err.count("usage/no-image") == 4


def test_the_live_ledgers_region_is_the_environments(monkeypatch):
    from nitrokit.cli.ledger_source import live_ledger

    for name, value in {**AWS, "AWS_CONFIG_FILE": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert live_ledger("ledger", None).table.client.meta.region_name == "eu-west-1"


def test_an_output_that_cannot_be_written_is_told_by_its_own_name(tmp_path, capsys, small_eif):
    (tmp_path / "enclave.toml").write_text('[enclave]\nname = "x"\n[eif]\npath = "x.eif"\n')
    (tmp_path / "x.eif").write_bytes(small_eif)
    assert run(["build", str(tmp_path), "-o", str(tmp_path / "x.eif" / "y")]) == 3
    told = capsys.readouterr().err
    assert ("environment/files" in told, f"{tmp_path}/x.eif'" in told) == (True, True), told
    with pytest.raises(UsageError, match="cannot write"):
        write_file(tmp_path, [b"x"])


def _out_of_room():
    yield b"x"
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_not_the_callers_mistake(tmp_path):
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "x", _out_of_room())
    assert list(tmp_path.iterdir()) == []
