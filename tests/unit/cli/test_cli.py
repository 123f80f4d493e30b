"""The command line as a user meets it: results, exit codes, wrong inputs, no traceback, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HELLO = ROOT / "enclave_images" / "hello"


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture
def blobs(tmp_path):
    folder = tmp_path / "blobs"
    folder.mkdir()
    (folder / "bzImage").write_bytes(b"ker")
    return str(folder)


def test_measure_prints_what_describe_eif_prints(small_eif, measurements, tmp_path):
    path = tmp_path / "x.eif"
    path.write_bytes(small_eif)
    printed = json.loads(run("measure", path).stdout)
    assert printed["Measurements"]["PCR0"] == measurements.pcr0.hex()
    assert set(printed) == {"EifVersion", "Measurements", "IsSigned", "CheckCRC", "ImageName", "ImageVersion", "Metadata"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bogus"], 2, "No such command"), (["measure"], 2, "Missing"), (["measure", "/nowhere.eif"], 2, "usage/unreadable-file"), (["measure", "/dev/null"], 1, "eif/truncated"),
        (["measure", "README.md"], 1, "eif/bad-magic"), (["build", "docs"], 2, "usage/no-image"), (["build", "docs", "--check"], 2, "usage/no-image"), (["doctor", "/nowhere"], 2, "usage/no-folder"),
        (["verify", "README.md", "-m", "enclave_images/hello"], 1, "[document/unrecognized]"),
        (["verify", "README.md", "-m", "README.md"], 2, "measurements/not-json"), (["verify", "/nowhere"], 2, "usage/unreadable-file"),
        (["verify", "package.json"], 2, "usage/no-document"), (["verify", "README.md", "--at", "soon"], 2, "--at"),
        (["check-policy", "README.md", "--account", "1"], 2, "usage/bad-account"),
        (["check-policy", "README.md", "--account", "123456789012"], 1, "policy/not-json"), (["check-policy", "package.json", "--account", "123456789012"], 1, "policy/element"),
        (["check-policy", "/nowhere", "--account", "123456789012"], 2, "usage/unreadable-file"), (["check-policy", "x", "--account", "123456789012", "--fail-on", "x"], 2, "usage/bad-severity"),
        (["check-policy", "package.json", "--account", "123456789012", "--grants", "package.json"], 2, "usage/bad-grants"),
        (["verify", "README.md", "-m", "enclave_images/hello", "--nonce", "xyz"], 2, "usage/bad-nonce"),
        (["lock", "enclave_images/hello", "--keep-old-until", "2020-01-01"], 2, "usage/past-date"), (["lock", "enclave_images/hello", "--keep-old-until", "soon"], 2, "--keep-old-until"),
        (["lock", "enclave_images/hello", "--retire", "--measurements-only"], 2, "usage/retire"), (["lock", "docs", "--retire"], 2, "lock/missing"),
        (["gate", "--rebuild", "--reference", "/nowhere.eif"], 2, "--reference"),
        (["local", "demo", "--image", "docs"], 2, "usage/no-image"), (["local", "demo", "--runner", "moon"], 2, "moon"), (["local", "demo", "--runner", "qemu"], 3, "emulation/no-qemu"),
    ],
)  # fmt: skip
def test_wrong_input_is_told_and_has_its_exit_code(arguments, code, words):
    done = run(*arguments, NITROKIT_QEMU="/nowhere", PATH="/usr/bin:/bin")
    assert (done.returncode, words in done.stderr + done.stdout) == (code, True), done.stderr


def test_lock_retires_sets_past_their_date_or_all(tmp_path, measurements):
    from nitrokit.core.measurements import Measurements, digest
    from nitrokit.core.reference_values import ReferenceValues, RetiringSet

    past, coming = (Measurements(digest([name]), measurements.pcr1, measurements.pcr2) for name in (b"past", b"coming"))
    dates = (RetiringSet(past, datetime(2020, 1, 1, tzinfo=UTC)), RetiringSet(coming, datetime(2999, 1, 1, tzinfo=UTC)))
    file = tmp_path / "measurements.json"
    file.write_text(ReferenceValues(measurements, dates).to_json())
    told = json.loads(run("lock", tmp_path, "--retire", "--json").stdout)
    assert (told["retired"], [one["RetireAfter"] for one in told["retiring"]]) == ([past.pcr0.hex()], ["2999-01-01T00:00:00Z"])
    assert ReferenceValues.parse(file.read_text()).sets() == (measurements, coming)
    assert "2999" in run("lock", tmp_path, "--retire").stdout
    assert run("lock", tmp_path, "--retire-all").returncode == 0
    assert file.read_text() == measurements.to_json()


def test_an_unknown_key_is_refused_with_its_line_and_writes_nothing(tmp_path, blobs):
    folder = tmp_path / "hello"
    shutil.copytree(HELLO, folder)
    (folder / "enclave.toml").write_text((folder / "enclave.toml").read_text().replace("cpu_count", "cpu_cuont"))
    done = run("build", folder, "-o", tmp_path / "out.eif", NITROKIT_BLOBS=blobs)
    assert (done.returncode, "enclave.toml:5" in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.glob("*out.eif*"))


def test_build_check_fails_on_drift_and_names_the_section(tmp_path, blobs):
    done = run("build", HELLO, "-o", tmp_path / "out.eif", "--check", "--json", NITROKIT_BLOBS=blobs)
    assert done.returncode == 1
    assert any("the kernel differs" in one for one in json.loads(done.stdout)["differences"])


def test_without_a_network_the_missing_file_is_named(tmp_path, blobs):
    environment = {
        "NITROKIT_BLOBS": blobs,
        "NITROKIT_CACHE": str(tmp_path / "empty"),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = run("build", HELLO, "-o", tmp_path / "out.eif", **environment)
    assert (done.returncode, "fetch/gone" in done.stderr, "pool/main" in done.stderr) == (3, True, True)
    assert not (tmp_path / "out.eif").exists()


def test_without_node_the_demo_says_what_to_do(tmp_path, blobs):
    for name in ("app.py", "cdk.json"):
        shutil.copy(ROOT / name, tmp_path)
    done = run(
        "local",
        "demo",
        "--runner",
        "process",
        "--app",
        tmp_path,
        "--image",
        HELLO,
        PATH=f"{Path(sys.executable).parent}:{_bwrap_only(tmp_path)}",
        NITROKIT_BLOBS=blobs,
    )
    assert (done.returncode, "environment/no-node" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("command", [["demo", "--image", HELLO], ["up"], ["run", "IMAGE"]])
@pytest.mark.parametrize("runner", ["process", "auto"])
def test_without_bubblewrap_nothing_is_started_and_its_package_is_named(tmp_path, blobs, small_eif, command, runner):
    (tmp_path / "enclave.toml").write_text('[enclave]\nname = "x"\n[eif]\npath = "x.eif"\n')
    (tmp_path / "x.eif").write_bytes(small_eif)
    before = set(Path("/tmp").glob("nk-*"))
    words = [tmp_path if word == "IMAGE" else word for word in command]
    done = run("local", *words, "--runner", runner, PATH="/nowhere", NITROKIT_BLOBS=blobs, NITROKIT_QEMU="/nowhere")
    assert (done.returncode, done.stdout, "[emulation/no-bwrap]" in done.stderr) == (3, "", True), done.stderr
    assert done.stderr.endswith("do this:  apt-get install bubblewrap\n")
    assert set(Path("/tmp").glob("nk-*")) <= before


def _bwrap_only(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bwrap").symlink_to(shutil.which("bwrap"))
    return folder


def test_local_up_prints_the_environment_and_ends_cleanly(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "nitrokit.cli", "local", "up", "--runner", "process"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while lines[-1] and not lines[-1].startswith("# cdk: "):
            lines.append(process.stdout.readline())
        assert any(line.startswith("export AWS_ENDPOINT_URL='http://localhost:") for line in lines)
        work = Path(lines[-1].partition("trustAnchor=")[2].split()[0]).parent
        assert work.is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 130
    assert not work.exists()


def test_doctor_speaks_json():
    findings = json.loads(run("doctor", "--json").stdout)
    assert {"Python", "Node", "CDK CLI", "bubblewrap", "enclave kernel", "QEMU nitro-enclave"} <= {one["name"] for one in findings}
    assert all(one["remedy"] for one in findings if one["state"] != "ok")
