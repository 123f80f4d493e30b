"""`nitrokit verify`, `measure` and `check-policy` on evidence as people have it."""

import base64
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HELLO = ROOT / "enclave_images" / "hello"
NITROKIT = [sys.executable, "-m", "nitrokit.cli"]


def run(*arguments):
    done = subprocess.run([*NITROKIT, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def _document(vectors):
    index = json.loads((vectors / "attestation-index.json").read_text())
    enclaves = [one for one in index["valid"] if one["kind"] == "NitroEnclave" and set(one["pcrs"]["0"]) != {"0"}]
    return next(one for one in enclaves if not one["pcrs"]["2"].startswith("21b9efbc"))


@pytest.fixture
def evidence(vectors, tmp_path):
    """A real document, its lock, and its own time."""
    one = _document(vectors)
    lock = tmp_path / "measurements.json"
    lock.write_text(json.dumps({"Measurements": {f"PCR{index}": one["pcrs"][str(index)] for index in (0, 1, 2)}}))
    at = datetime.fromtimestamp(one["timestamp_ms"] / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return vectors / one["file"], lock, at


def test_verify_says_pass_and_fail(evidence):
    document, lock, at = evidence
    passed = run("verify", document, "-m", lock, "--at", at, "--json")
    assert (passed.returncode, json.loads(passed.stdout)["verdict"]) == (0, "PASS")
    expired = run("verify", document, "-m", lock, "--json")
    (told,) = json.loads(expired.stdout)["documents"]
    assert (expired.returncode, told["error"]["code"], told["verified"]) == (1, "verification/validity", False)
    other = run("verify", document, "-m", HELLO, "--at", at)
    assert (other.returncode, "appraisal/measurements" in other.stdout, other.stdout.count("expected ")) == (1, True, 4)


def test_verify_accepts_a_retiring_set_until_its_date(evidence, tmp_path):
    document, lock, at = evidence
    retiring = {**json.loads(lock.read_text()), "RetireAfter": f"{at}Z"}
    rollover = tmp_path / "rollover.json"
    rollover.write_text(json.dumps({**json.loads((HELLO / "measurements.json").read_text()), "Retiring": [retiring]}))
    assert run("verify", document, "-m", rollover, "--at", at).returncode == 0
    late = datetime.fromisoformat(at) + timedelta(seconds=1)
    done = run("verify", document, "-m", rollover, "--at", late.isoformat())
    assert (done.returncode, "appraisal/retired" in done.stdout, f"matches    {rollover}, until" in done.stdout) == (1, True, True)
    twice = run("verify", document, "-m", rollover, "-m", lock, "--at", late.isoformat())
    assert twice.returncode == 0, "another lock has it as its current set"


def test_verify_without_measurements_never_says_pass(evidence):
    document, _, at = evidence
    authentic = run("verify", document, "--at", at)
    assert (authentic.returncode, authentic.stdout.split()[0]) == (0, "AUTHENTIC")
    assert "not appraised" in authentic.stdout
    assert (run("verify", document, "--nonce", "00").returncode) == 2, "a demand without a set would be ignored"


def test_verify_tells_archived_evidence_as_such(evidence):
    document, lock, at = evidence
    archived = run("verify", document, "-m", lock, "--archived")
    assert archived.returncode == 0
    assert "ARCHIVED EVIDENCE" in archived.stdout and archived.stdout.count("✓") == 5
    (told,) = json.loads(run("verify", document, "-m", lock, "--archived", "--json").stdout)["documents"]
    assert (told["archived"], told["verdict"], told["timestamp"] == told["validation_time"]) == (True, "PASS", True)
    assert run("verify", document, "--archived", "--at", at).returncode == 2
    assert "ARCHIVED" not in run("verify", document, "--at", at).stdout


def test_verify_demands_what_is_named(evidence):
    document, lock, at = evidence
    for option, value in (
        ("--role-arn", "arn:aws:iam::123456789012:role/x"),
        ("--instance-id", "i-00000000"),
        ("--region", "xx-west-1"),
        ("--nonce", "00"),
        ("--max-age", "1"),
    ):
        seconds_later = at[:-2] + "59"
        done = run("verify", document, "-m", lock, "--at", seconds_later, option, value)
        assert (done.returncode, "appraisal/" in done.stdout) == (1, True), (option, done.stdout)


def test_verify_takes_documents_as_people_have_them(evidence, tmp_path):
    document, lock, at = evidence
    raw = document.read_bytes()
    forms = {
        "hex": raw.hex().encode(), "HEX": b"0x" + raw.hex().upper().encode() + b"\n", "base64": base64.b64encode(raw), "wrapped": base64.encodebytes(raw),
        "urlsafe": base64.urlsafe_b64encode(raw).rstrip(b"="), "json": json.dumps({"a": [{"AttestationDocument": base64.b64encode(raw).decode()}]}).encode(),
        "array": json.dumps({"document": list(raw)}).encode(), "string": json.dumps(raw.hex()).encode(),
    }  # fmt: skip
    paths = []
    for name, content in forms.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    told = json.loads(run("verify", document, *paths, "-m", lock, "--at", at, "--json").stdout)
    assert [one["verdict"] for one in told["documents"]] == ["PASS"] * 9
    several = tmp_path / "several.json"
    several.write_text(json.dumps({"one": raw.hex(), "two": ["x", raw.hex()]}))
    told = json.loads(run("verify", several, "-m", lock, "--at", at, "--json").stdout)
    assert [one["document"] for one in told["documents"]] == [f"{several} $.one", f"{several} $.two[1]"]
    piped = subprocess.run([*NITROKIT, "verify", "-", "-m", lock, "--at", at], input=forms["wrapped"], capture_output=True, check=False)
    assert (piped.returncode, piped.stdout.split()[0]) == (0, b"PASS")


def test_one_bad_document_among_several_fails_all(evidence, tmp_path):
    document, lock, at = evidence
    bad = tmp_path / "bad"
    bad.write_bytes(document.read_bytes()[:-1])
    done = run("verify", document, bad, "-m", lock, "--at", at)
    assert (done.returncode, done.stdout.count("PASS"), done.stdout.count("FAIL")) == (1, 1, 1)


def test_measure_tells_of_a_signature_that_would_not_start(tmp_path):
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA384
    from cryptography.hazmat.primitives.serialization import Encoding

    from nitrokit.core.cose import key_signer
    from nitrokit.core.eif import Signer, write_eif

    key, name = ec.generate_private_key(ec.SECP384R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "s")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(start).not_valid_after(start + timedelta(days=1)).sign(key, SHA384())
    path = tmp_path / "signed.eif"
    with path.open("w+b") as file:
        write_eif(
            file,
            kernel=b"k",
            cmdline="c",
            ramdisks=[b"a"],
            metadata={},
            signer=Signer(certificate.public_bytes(Encoding.PEM), key_signer(key)),
        )
    done = run("measure", path)
    assert (done.returncode, json.loads(done.stdout)["SignatureCheck"]) == (0, True)
    assert "Jan  1 00:00:00 2020 GMT to Jan  2 00:00:00 2020 GMT: the enclave will not start" in done.stderr


POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Sid": "Root", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*", "Resource": "*"}
    ],
}


def test_check_policy_finds_ways_round(tmp_path):
    bare, wrapped, grants = tmp_path / "bare.json", tmp_path / "wrapped.json", tmp_path / "grants.json"
    bare.write_text(json.dumps(POLICY))
    wrapped.write_text(json.dumps({"Policy": json.dumps(POLICY), "PolicyName": "default"}))
    grants.write_text(
        json.dumps({"Grants": [{"GrantId": "g", "GranteePrincipal": "arn:aws:iam::123456789012:role/x", "Operations": ["Decrypt"]}]})
    )
    for path in (bare, wrapped):
        done = run("check-policy", path, "--account", "123456789012")
        assert (done.returncode, "CRITICAL iam-delegation in Root" in done.stdout, "do this" in done.stdout) == (1, True, True)
    told = json.loads(run("check-policy", bare, "--account", "123456789012", "--grants", grants, "--json").stdout)
    assert told["verdict"] == "FAIL"
    assert {"existing-grant", "policy-change"} <= {one["id"] for one in told["findings"]}
    piped = subprocess.run(
        [*NITROKIT, "check-policy", "-", "--account", "123456789012"], input=wrapped.read_bytes(), capture_output=True, check=False
    )
    assert piped.returncode == 1


def test_check_policy_passes_ours(tmp_path):
    from nitrokit.core.key_policy import build_key_policy
    from nitrokit.core.measurements import Measurements

    host = "arn:aws:iam::123456789012:role/host"
    locked = Measurements.parse((HELLO / "measurements.json").read_bytes())
    path = tmp_path / "ours.json"
    path.write_text(json.dumps(build_key_policy(measurements=[locked], host_role_arn=host, account="123456789012", data_owner_arns=[host])))
    done = run("check-policy", path, "--account", "123456789012")
    assert (done.returncode, done.stdout.split()[0]) == (0, "PASS")
    assert run("check-policy", path, "--account", "123456789012", "--fail-on", "info").returncode == 1


def test_check_policy_tells_a_rollover(tmp_path):
    from nitrokit.core.key_policy import openings, policy_for
    from nitrokit.core.measurements import Measurements, digest
    from nitrokit.core.reference_values import ReferenceValues, RetiringSet

    sets = [Measurements(digest([name]), digest([b"boot"]), digest([name, b"app"])) for name in (b"new", b"old", b"older")]
    dates = (datetime(2999, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))
    values = ReferenceValues(sets[0], tuple(map(RetiringSet, sets[1:], dates)))
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy_for(openings("arn:aws:iam::123456789012:role/host", values), account="123456789012")))
    told = json.loads(run("check-policy", path, "--account", "123456789012", "--json").stdout)["sets"]
    assert [(one["until"], one["past"]) for one in told] == [
        (None, False),
        ("2999-01-01T00:00:00+00:00", False),
        ("2020-01-01T00:00:00+00:00", True),
    ]
    assert [one["pcrs"]["imagesha384"] for one in told] == [[one.pcr0.hex()] for one in sets]
    human = run("check-policy", path, "--account", "123456789012").stdout
    assert human.count("opens for") == 3 and human.count("past: retire it") == 1
