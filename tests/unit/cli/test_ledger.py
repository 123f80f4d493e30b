"""`nitrokit ledger` as people run it: against a live table (moto's server) and against an export, with documents of an emulated PKI."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import patch

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.server import ThreadedMotoServer

from nitrokit.cli.__main__ import run
from nitrokit.core.ledger import FAIL, PASS, UNREACHABLE, LedgerEntry, TiledLedger, root_of, sign_checkpoint
from nitrokit.core.measurements import Measurements
from nitrokit.core.nsm import decode_response, encode_request
from nitrokit.emulation.nitro.nsm import EmulatedNsm
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.handlers.ledger_folder import FolderStore
from nitrokit.handlers.ledger_signing import kms_signer, sign_ledger
from nitrokit.handlers.ledger_store import Ledger

DAY = datetime(2026, 6, 7, tzinfo=UTC)
HOST, OTHER = "i-0123456789abcdef0", "i-0fedcba9876543210"
ORIGIN = "arn:aws:dynamodb:eu-west-1:123456789012:table/ledger"
ONE, TWO = (Measurements(*(bytes([number]) * 48 for _ in range(3))) for number in (1, 2))


class World:
    """A day in the life of two hosts, in a live table that is signed by a key in KMS, and its export."""

    def __init__(self, folder, endpoint, make_table):
        self.folder, self.now = folder, DAY
        self.environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        options = {"endpoint_url": endpoint, "region_name": "eu-west-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
        self.dynamodb, kms = boto3.client("dynamodb", **options), boto3.client("kms", **options)
        self.pki = EmulatedPki(lambda: self.now)
        (folder / "root.der").write_bytes(self.pki.trust_anchor.der)
        self.kms_key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
        self.signer = kms_signer(ORIGIN, self.kms_key, kms)
        self.key = folder / "key.pem"
        self.key.write_bytes(self.signer.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        make_table(self.dynamodb)
        self.ledger, self.enclaves = Ledger("ledger", self.dynamodb), {}

    def check(self, hour, host=HOST, enclave="enc0000000000000001", measurements=ONE, verdict=PASS, **changes):
        """One check: a fresh document of an enclave, and its entry."""
        self.now = DAY + timedelta(hours=hour)
        module_id = f"{host}-{enclave}"
        make = {
            "module_id": module_id,
            "measurements": measurements,
            "role_arn": None,
            "debug": False,
            "pki": self.pki,
            "now": lambda: self.now,
        }
        nsm = self.enclaves.setdefault(module_id, EmulatedNsm(**make))
        asked = encode_request("Attestation", {"user_data": None, "nonce": b"n", "public_key": None})
        fields = {"document": decode_response(nsm.answer(asked), "Attestation")["document"], "nonce": b"n", "verdict": verdict, **changes}
        self.ledger.append(LedgerEntry(f"{host}-{hour}", self.now, "hello", host, "check-enclaves", **fields))

    def live_through_the_day(self):
        for hour in (2, 6, 10):
            self.check(hour, image="1.0")
        self.check(11, verdict=UNREACHABLE, document=None, nonce=None, reason="no answer: \x1b[31mred")
        self.check(2.5, OTHER, "enc0000000000000003")
        self.check(14, enclave="enc0000000000000002", measurements=TWO, verdict=FAIL, reason="another image")
        self.check(20, enclave="enc0000000000000002", measurements=TWO)
        sign_ledger(self.ledger, self.signer, DAY + timedelta(hours=20, minutes=1))
        self.check(23, OTHER, "enc0000000000000003")


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_ledger_table):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    world = World(tmp_path_factory.mktemp("world"), f"http://{host}:{port}", make_ledger_table)
    world.live_through_the_day()
    yield world
    server.stop()


def _run(world, *arguments):
    """The command, in this process."""
    words = ["ledger", *map(str, arguments)]
    out, error, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with (
        patch.dict(os.environ, world.environment),
        patch.object(sys, "argv", ["nitrokit", *words]),
        redirect_stdout(out),
        redirect_stderr(error),
    ):
        code = run(words)
    signal.signal(signal.SIGTERM, before)
    told = json.loads(out.getvalue()) if "--json" in words and out.getvalue() else None
    assert "internal" not in error.getvalue()
    return SimpleNamespace(code=code, out=out.getvalue(), error=error.getvalue(), json=told)


@pytest.fixture(scope="module")
def export(world):
    folder = world.folder / "export"
    command = ["export", folder, "--table", "ledger", "--region", "eu-west-1", "--kms-key", world.kms_key]
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", "ledger", *command], capture_output=True, text=True, check=False, env=world.environment
    )
    assert (done.returncode, done.stdout) == (0, f"7 entries in {folder}, as signed 2026-06-07 20:01:00 UTC\n")
    return folder


def _live(world):
    return ["--table", "ledger", "--region", "eu-west-1", "--key", world.key]


def _at(world, time, *arguments):
    return _run(world, "at", time, *arguments, "--enclave", "hello", "--root", world.folder / "root.der")


def test_the_attestation_report_draws_what_the_export_proves(world, export, tmp_path):
    (tmp_path / "gate.json").write_text(
        json.dumps(
            {
                "verdict": "PASS",
                "time": DAY.isoformat(),
                "counts": {"agrees": 0, "planned": 0, "unreachable": 0, "drift": 0},
                "images": {},
                "comparisons": [],
            }
        )
    )
    (tmp_path / "measurements.json").write_text(TWO.to_json())
    words = [
        "report",
        tmp_path / "gate.json",
        "--ledger",
        export,
        "--key",
        world.key,
        "-m",
        tmp_path / "measurements.json",
        "--root",
        world.folder / "root.der",
        "-o",
        tmp_path / "r.html",
    ]
    done = subprocess.run([sys.executable, "-m", "nitrokit.cli", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    assert page.count('<rect class="bar v') == 3, "one enclave of each host, and the second of one"
    assert f"PCR0 {'01' * 8}…" in page and f"{tmp_path}/measurements.json" in page
    assert "7 entries up to 2026-06-07 20:01 UTC, signed by the key that was named" in page
    assert "no answer: \x1b" not in page and page.count('class="mark"') == 1
    torn = tmp_path / "torn"
    shutil.copytree(export, torn)
    entries = next(path for path in sorted(torn.glob("tile/entries/**/*")) if path.is_file())
    entries.write_bytes(entries.read_bytes()[:-1] + b"!")
    words[3] = torn
    done = subprocess.run([sys.executable, "-m", "nitrokit.cli", *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, "[ledger/" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("place", ["table", "export"])
def test_at_tells_what_ran_and_what_is_proven(world, export, place):
    where = [export, "--key", world.key] if place == "export" else _live(world)
    found = _at(world, "2026-06-07T08:00Z", *where, "--host", HOST, "--json")
    (host,) = found.json["hosts"]
    assert (found.code, host["verdict"], found.json["signature"], found.json["complete"]) == (0, "PROVEN", "trusted", place == "export")
    run = host["runs"][0]
    assert (run["from"], run["to"], run["pcrs"]["0"], run["image"]) == (
        "2026-06-07T06:00:00+00:00",
        "2026-06-07T10:00:00+00:00",
        "01" * 48,
        "1.0",
    )
    between = _at(world, "2026-06-07T12:00:00+00:00", *where, "--host", HOST)
    assert (between.code, between.out.split("  ")[0]) == (1, "NOT PROVEN")
    assert "ANOTHER IMAGE after than before" in between.out
    assert "UNREACHABLE" in between.out and "\x1b" not in between.out
    day = _at(world, "2026-06-07", *where, "--json")
    verdicts = {host["host"]: host["verdict"] for host in day.json["hosts"]}
    assert (day.code, verdicts) == (0, {HOST: "PARTLY", OTHER: "PARTLY"})
    assert [gap["from"][11:16] for gap in day.json["hosts"][0]["gaps"]] == ["00:00", "10:00", "20:00"]


def test_at_names_versions_by_locks_and_their_history(world, export):
    """The lock was changed meanwhile: git tells when the old one stood there."""
    image = world.folder / "image"
    image.mkdir()
    git = ["git", "-C", str(image), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for number, measurements in enumerate((ONE, TWO)):
        (image / "measurements.json").write_text(measurements.to_json())
        for command in ([] if number else ["init", "-q"], ["add", "-A"], ["commit", "-qm", f"version {number + 1}"]):
            if command:
                subprocess.run([*git, *command], check=True)
    found = _at(world, "2026-06-07", export, "--key", world.key, "--host", HOST, "-m", image, "--json")
    first, second = (run["version"] for run in found.json["hosts"][0]["runs"])
    assert first.startswith(f"{image} in commit ") and first.endswith("version 1")
    assert second == str(image)


def test_at_says_what_it_stands_on(world, export):
    own = _at(world, "2026-06-07T08:00", export, "--json")
    unsigned = _at(world, "2026-06-07T22:00", "--table", "ledger", "--region", "eu-west-1", "--host", OTHER, "--json")
    assert (own.json["signature"], unsigned.json["signature"]) == ("own", "none")
    assert (unsigned.json["hosts"][0]["verdict"], unsigned.json["hosts"][0]["runs"][0]["signed"]) == ("PROVEN", False)
    text = _at(world, "2026-06-07T22:00", *_live(world), "--host", OTHER).out
    assert "entries from 7 on are not yet signed" in text and "the table's index" in text
    foreign = _run(world, "at", "2026-06-07T08:00", export, "--enclave", "hello", "--key", world.key)
    assert (foreign.code, foreign.out.count("NOT PROVEN"), foreign.out.count("no proof")) == (1, 2, 7), "an emulated PKI is not AWS's"
    assert "1 more entries" in foreign.out


def test_verify_holds_and_continues_a_kept_checkpoint(world, export, tmp_path):
    kept = tmp_path / "kept"
    first = _run(world, "verify", export, "--key", world.key, "--save", kept)
    assert first.code == 0 and first.out.startswith("VERIFIED  7 entries") and "NOT SEEN" in first.out
    live = _run(world, "verify", *_live(world), "--checkpoint", kept, "--json")
    assert (live.code, live.json["verdict"], live.json["entries"], live.json["unsigned_entries"]) == (0, "VERIFIED", 8, 1)
    assert (live.json["continues"][0]["entries"], live.json["verdicts"]) == (7, {"PASS": 6, "FAIL": 1, "UNREACHABLE": 1})
    assert "NOT SIGNED" in _run(world, "verify", *_live(world)).out
    own = _run(world, "verify", export)
    assert (own.code, own.out.split()[0], "the export's own" in own.out) == (0, "CONSISTENT", True)


@pytest.fixture
def changed(export, tmp_path):
    """A copy of the export, to be damaged."""
    return shutil.copytree(export, tmp_path / "changed")


def _code(done):
    assert done.code == 1, done.out + done.error
    return done.error.split("[")[1].split("]")[0]


def test_verify_finds_edits_gaps_forks_and_truncation(world, export, changed, tmp_path):
    bundle = changed / "tile" / "entries" / "000.p" / "7"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole.replace(b"another image", b"the same one!"))
    assert _code(_run(world, "verify", changed, "--key", world.key)) == "ledger/chain"
    bundle.unlink()
    assert _code(_run(world, "verify", changed, "--key", world.key)) == "ledger/gap"
    bundle.write_bytes(whole)
    assert _run(world, "verify", changed, "--key", world.key).code == 0
    # Another history, signed by a thief of the key: only the kept checkpoint tells.
    thief = ec.generate_private_key(ec.SECP256R1())
    forged = tmp_path / "forged"
    forged.write_text(sign_checkpoint(7, bytes(32), DAY, world.signer))
    assert _code(_run(world, "verify", export, "--key", world.key, "--checkpoint", forged)) == "ledger/fork"
    other = replace(world.signer, key=replace(world.signer.key, name="example.com/other"))
    forged.write_text(sign_checkpoint(7, bytes(32), DAY, other))
    assert _code(_run(world, "verify", export, "--key", world.key, "--checkpoint", forged)) == "ledger/origin"
    forged.write_text(sign_checkpoint(70, bytes(32), DAY, world.signer))
    assert _code(_run(world, "verify", export, "--key", world.key, "--checkpoint", forged)) == "ledger/truncated"
    (tmp_path / "thief.pem").write_bytes(thief.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert _code(_run(world, "verify", export, "--key", tmp_path / "thief.pem")) == "ledger/unsigned"


def test_at_believes_no_table_that_does_not_continue_its_checkpoint(world):
    """Each record is proven to be in the tree of the table's head: that the head itself is not a new history, the checkpoint tells."""
    client, key = world.ledger.table.client, {"key": {"S": "checkpoint/000000000000"}}
    (signed,) = world.ledger.checkpoints(0, 1)
    try:
        client.put_item(TableName="ledger", Item={**key, "note": {"S": sign_checkpoint(7, bytes(32), DAY, world.signer)}})
        assert _code(_at(world, "2026-06-07", *_live(world))) == "ledger/fork"
    finally:
        client.put_item(TableName="ledger", Item={**key, "note": {"S": signed}})


def test_an_export_that_was_killed_before_its_last_step_holds(world, changed):
    """The numbered checkpoint is there, ``checkpoint`` is still the one before."""
    first, newest = changed / "checkpoints" / "000000000000", changed / "checkpoints" / "000000000001"
    first.rename(newest)
    old = sign_checkpoint(3, root_of(3, TiledLedger(7, FolderStore(changed).read).nodes), DAY, world.signer)
    first.write_text(old)
    (changed / "checkpoint").write_text(old)
    found = _run(world, "verify", changed, "--key", world.key, "--json")
    assert (found.code, found.json["entries"], found.json["checkpoints"]) == (0, 7, 2), found.error


def test_a_checkpoint_that_was_taken_out_of_an_export_is_a_gap(world, changed):
    first = changed / "checkpoints" / "000000000000"
    first.rename(changed / "checkpoints" / "000000000001")
    assert _code(_run(world, "verify", changed, "--key", world.key)) == "ledger/gap"
    first.write_text(sign_checkpoint(3, bytes(32), DAY, world.signer))
    (changed / "checkpoints" / "000000000001").rename(changed / "checkpoints" / "000000000002")
    assert _code(_run(world, "verify", changed, "--key", world.key)) == "ledger/gap"


def _refused(done):
    """Its exit code and the code of its error; nothing was said on stdout."""
    assert done.out == ""
    return done.code, done.error.split("[")[1].split("]")[0]


LIVE = ("--table", "ledger", "--region", "eu-west-1")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["verify"], "usage/no-ledger"), (["verify", "EXPORT", "--table", "x"], "usage/no-ledger"), (["verify", "--table", "", "--region", "eu-west-1"], "usage/no-ledger"),
        (["verify", "EXPORT", "--table", ""], "usage/no-ledger"), (["export", "NEW", "--table", "", "--key", "KEY"], "usage/no-ledger"), (["at", "2026-06-07", "--enclave", "x"], "usage/no-ledger"),
        (["verify", "NEW"], "usage/no-export"), (["verify", "HERE"], "usage/no-export"), (["verify", "KEY"], "usage/no-export"), (["at", "2026-06-07", "HERE", "--enclave", "x"], "usage/no-export"),
        (["at", "2026-06-07", "EXPORT"], "usage/no-enclave"), (["at", "2026-06-07", "EXPORT", "--enclave", ""], "usage/no-enclave"),
        (["verify", "EXPORT", "--key", "KEY", "--kms-key", "x"], "usage/no-key"), (["export", "NEW", *LIVE], "usage/no-key"),
        (["export", "NEW", *LIVE, "--key", "KEY", "--kms-key", "KMS"], "usage/no-key"),
        (["verify", "EXPORT", "--key", "NEW"], "usage/unreadable-file"), (["verify", "EXPORT", "--key", "EXPORT/checkpoint"], ""),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_usage(world, export, tmp_path, arguments, code):
    places = {"EXPORT": export, "NEW": tmp_path / "new", "HERE": tmp_path, "KEY": world.key, "KMS": world.kms_key}

    def word(text):
        name, slash, rest = text.partition("/")
        return f"{places.get(name, name)}{slash}{rest}"

    found = _refused(_run(world, *map(word, arguments)))
    assert found == (2, code or found[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "time",
    [
        "yesterday", "", "2026-6-7", "2026-02-30", "9999-12-31", "0001-01-01T00:00+05:00", "9999-12-31T23:59-05:00", "2026-06-07T24:01", "12:00", "1780830000", "x" * 200,
    ],
)  # fmt: skip
def test_what_is_no_time_is_usage(world, export, time):
    done = _at(world, time, export, "--key", world.key)
    assert _refused(done) == (2, "usage/bad-time")
    assert len(done.error) < 300


@pytest.mark.parametrize(
    "time", ["2026-06-07", "20260607", "2026-W23-7", "2026-06-07T08:00", "2026-06-07 08:00:00Z", "2026-06-07T10:00+02:00"]
)
def test_days_and_moments_of_iso_8601_are_understood(world, export, time):
    assert _at(world, time, export, "--key", world.key, "--host", HOST).code == 0


@pytest.mark.parametrize("place", ["table", "export"])
def test_an_enclave_or_a_host_that_the_ledger_does_not_know_is_told_apart(world, export, place):
    where = [export, "--key", world.key] if place == "export" else _live(world)
    for arguments, words in (
        (["--enclave", "helo"], ["got:      helo on any host", "check the name"]),
        (["--enclave", "helo", "--host", HOST], [f"got:      helo on {HOST}", "check the name"]),
        (
            ["--enclave", "hello", "--host", "i-0"],
            ["got:      hello on i-0", f"{HOST}, {OTHER} for its host", "and --host"],
        ),
    ):
        done = _run(world, "at", "2026-06-07", *where, *arguments)
        assert _code(done) == "ledger/unknown-enclave"
        assert [word for word in words if word not in done.error] == []


def test_a_table_that_is_not_there_is_the_environments(world):
    assert _run(world, "verify", "--table", "nowhere", "--region", "eu-west-1").code == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "name the Region with --region, or set AWS_REGION"), ({"AWS_REGION": "not a region"}, "name the Region with --region, or set AWS_REGION"),
        ({"AWS_REGION": "eu-west-1", "AWS_PROFILE": "nobody"}, "check AWS_PROFILE"), ({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "nonsense"}, "AWS_ENDPOINT_URL"),
        ({"AWS_REGION": "eu-west-1", "AWS_CONFIG_FILE": "TORN"}, "the AWS configuration files"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "arguments", [["verify", "--table", "x"], ["export", "NEW", "--table", "x", "--kms-key", "y"], ["verify", "NEW", "--kms-key", "y"]]
)
def test_a_machine_whose_aws_configuration_leads_nowhere_says_what_to_mend(world, tmp_path, monkeypatch, changes, words, arguments):
    (tmp_path / "torn").write_text("garbage")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it has read another configuration
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    world = SimpleNamespace(environment={"AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"})
    world.environment.update({name: value.replace("TORN", str(tmp_path / "torn")) for name, value in changes.items()})
    done = _run(world, *(word.replace("NEW", str(tmp_path / "new")) for word in arguments))
    assert _refused(done) == (3, "environment/aws-client")
    assert words in done.error.splitlines()[-1]
    assert not (tmp_path / "new").exists()
