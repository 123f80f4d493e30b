"""lock, build --check and explain as a user has them, on an image that takes no time (AWS's init)."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from nitrokit.image.compression import CompressionProblem, compressed
from nitrokit.image.content import CHUNK

MANIFEST = '[enclave]\nname = "x"\ninit = "aws"\ncompression = "zstd"\n[rootfs]\npath = "tree"\n[app]\ncommand = ["/opt/tool"]\n'


@pytest.fixture
def image(tmp_path):
    for name in ("bzImage", "init"):
        (tmp_path / name).write_bytes(b"x")
    folder = tmp_path / "image"
    (folder / "tree/opt").mkdir(parents=True)
    (folder / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\none\n")
    (folder / "tree/opt/interpreter").write_bytes(b"interpreter")
    for name in ("tool", "interpreter"):
        (folder / "tree/opt" / name).chmod(0o755)
    (folder / "enclave.toml").write_text(MANIFEST)
    return folder


def _nitrokit(image, *arguments):
    environment = {**os.environ, "NITROKIT_BLOBS": str(image.parent), "NITROKIT_CACHE": str(image.parent / "cache")}
    command = [sys.executable, "-m", "nitrokit.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert "Traceback" not in done.stderr
    return done


def _locks(image):
    return {name: (image / name).read_bytes() for name in ("measurements.json", "image.lock.json")}


def test_lock_alone_changes_measurements_and_check_fails_when_they_differ(image, tmp_path):
    eif = tmp_path / "x.eif"
    assert _nitrokit(image, "build", image, "--check", "-o", eif).returncode == 2, "nothing is locked yet"
    assert not eif.exists(), "which is told before anything is built"
    assert _nitrokit(image, "lock", image).returncode == 0
    locked = _locks(image)
    assert _nitrokit(image, "build", image, "--check", "-o", eif).returncode == 0
    (image / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\ntwo\n")
    told = _nitrokit(image, "build", image, "--check", "--json", "-o", eif)
    assert told.returncode == 1
    assert "ramdisk 1" in json.loads(told.stdout)["differences"][0]
    assert _nitrokit(image, "build", image, "-o", eif).returncode == 0
    assert _nitrokit(image, "explain", image / "measurements.json", image).returncode == 1
    assert _locks(image) == locked
    assert _nitrokit(image, "lock", image, "--measurements-only").returncode == 0
    assert _locks(image) != locked
    assert _nitrokit(image, "build", image, "--check", "-o", eif).returncode == 0


def test_explain_compares_folders_eifs_and_locks_in_every_pair(image, tmp_path):
    """Down to the file where both sides have files, zstd or not; by section where one is a lock."""
    assert _nitrokit(image, "lock", image).returncode == 0
    _nitrokit(image, "build", image, "-o", tmp_path / "one.eif")
    other = tmp_path / "other"
    shutil.copytree(image, other)
    (other / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\ntwo\n")
    (other / "enclave.toml").write_text(MANIFEST.replace("zstd", "none"))
    _nitrokit(image, "lock", other)
    _nitrokit(image, "build", other, "-o", tmp_path / "two.eif")
    one_eif, two_eif, lock = tmp_path / "one.eif", tmp_path / "two.eif", image / "measurements.json"
    for one in (one_eif, lock):
        assert _nitrokit(image, "explain", one, image).returncode == 0
    for one, two in ((image, other), (image, two_eif), (one_eif, two_eif), (one_eif, other / "measurements.json"), (lock, two_eif)):
        done = _nitrokit(image, "explain", one, two, "--json")
        assert done.returncode == 1
        told = json.loads(done.stdout)
        (section,) = told["sections"]
        assert (set(told["pcrs"]), section["section"]) == ({"PCR0", "PCR2"}, "ramdisk1")
        if ".json" in f"{one}{two}":
            assert "a lock has no files" in section["note"]
        else:
            assert [(change["path"], change["kind"], change["diff"][1:]) for change in section["changes"]] == [
                ("rootfs/opt/tool", "content", [" #!/opt/interpreter", "-one", "+two"])
            ]


def test_what_an_image_holds_cannot_forge_what_is_said_of_it(image, tmp_path):
    """An escape that clears the line would hide a difference from the reviewer."""
    _nitrokit(image, "build", image, "-o", tmp_path / "one.eif")
    (image / "tree/opt/tool").write_bytes(b"#!/opt/interpreter\n\x1b[2K\x1b[1Atwo\n")
    (image / "tree/\x1b[2K\n  added    x").write_bytes(b"")
    told = _nitrokit(image, "explain", tmp_path / "one.eif", image).stdout
    assert "\x1b" not in told
    assert "+\\x1b[2K" in told and "rootfs/\\x1b[2K\\n  added    x" in told


ZEROS = "0" * 64


@pytest.mark.parametrize(
    ("source", "app", "code", "words"),
    [
        ('[rootfs]\npath = "tree"\n', "", "image/no-command", "ENTRYPOINT or CMD"), ('[rootfs]\npath = "tree"\n', "command = []\n", "image/no-command", "ENTRYPOINT or CMD"),
        ('[rootfs]\npath = "tree"\n', 'command = ["/opt/tool"]\nsource = "gone"\n', "image/no-app", "image/gone"),
        ('[rootfs]\npath = "tree"\n', 'command = ["/opt/tool"]\nsource = "enclave.toml"\n', "image/no-app", "image/enclave.toml"),
        ('[rootfs]\npath = "tree"\n', 'command = ["/opt/tool"]\nsource = "app"\n', "image/app-link", "image/app/x/link"),
        (f'[rootfs]\npath = "tree"\nsha256 = "{ZEROS}"\n', 'command = ["/opt/tool"]\n', "image/rootfs-digest", "remove sha256 from [rootfs]"),
        (f'[rootfs]\npath = "tree.tar"\nsha256 = "{ZEROS}"\n', 'command = ["/opt/tool"]\n', "image/rootfs-digest", f"expected: {ZEROS}"),
        ("[dockerfile]\n", "", "image/dockerfile", "No such file"), ('[dockerfile]\npath = "tree"\n', "", "image/dockerfile", "Is a directory"),
        ('[dockerfile]\npath = "latin"\n', "", "image/dockerfile", "'utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_built_says_why_and_leaves_nothing(image, source, app, code, words):
    (image / "gone").symlink_to("nowhere")
    (image / "app/x").mkdir(parents=True)
    (image / "app/x/link").symlink_to("../../tree/opt/tool")
    (image / "latin").write_bytes(b"FROM scratch # \xe4\n")
    subprocess.run(["tar", "-C", image / "tree", "-cf", image / "tree.tar", "."], check=True)
    (image / "enclave.toml").write_text(f'[enclave]\nname = "x"\ninit = "aws"\n{source}' + (f"[app]\n{app}" if app else ""))
    before = sorted(path.name for path in image.iterdir())
    done = _nitrokit(image, "build", image, "-o", image / "x.eif")
    assert (done.returncode, f"[{code}]" in done.stderr, words in done.stderr) == (1, True, True), done.stderr
    assert sorted(path.name for path in image.iterdir()) == before
    assert sorted(path.name for path in (image.parent / "cache").iterdir()) == [".work-lock"]


def test_a_root_file_system_that_is_what_was_pinned_is_taken(image):
    subprocess.run(["tar", "-C", image / "tree", "-cf", image / "tree.tar", "."], check=True)
    digest = hashlib.sha256((image / "tree.tar").read_bytes()).hexdigest()
    (image / "enclave.toml").write_text(MANIFEST.replace('path = "tree"', f'path = "tree.tar"\nsha256 = "{digest}"'))
    assert _nitrokit(image, "build", image, "-o", image / "x.eif").returncode == 0


@pytest.mark.parametrize("command", [["build"], ["lock"], ["local", "demo", "--image"], ["local", "run"]])
def test_an_enclave_toml_that_is_no_text_is_told_by_its_name_before_anything_starts(image, command):
    (image / "enclave.toml").write_bytes(b'[enclave]\nname = "\xff"\n')
    (image.parent / "bzImage").unlink()
    done = _nitrokit(image, *command, image)
    assert (done.returncode, f"{image}/enclave.toml is not TOML [manifest/not-toml]" in done.stderr) == (2, True), done.stderr
    assert not (image.parent / "cache").exists()


def test_what_is_no_file_is_not_replaced(image, tmp_path):
    """Root would put the image in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "pipe", tmp_path):
        done = _nitrokit(image, "build", image, "-o", target)
        assert (done.returncode, "environment/files" in done.stderr, str(target) in done.stderr) == (3, True, True), done.stderr
    assert (tmp_path / "pipe").is_fifo()


def test_a_machine_that_refuses_is_told_of_as_such(image, tmp_path):
    (tmp_path / "file").touch()
    environment = {**os.environ, "NITROKIT_BLOBS": str(tmp_path), "NITROKIT_CACHE": str(tmp_path / "file"), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", "build", str(image)], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, "environment/files" in done.stderr) == (3, True), done.stderr


def test_a_terminal_without_check_marks_gets_escapes():
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert "\\u2713 Python" in done.stdout
    assert "internal" not in done.stderr


def test_a_part_of_the_app_that_cannot_be_read_is_not_left_out(image):
    """As a user to whom a folder is closed: the image would be measured without it."""
    (image / "app/closed").mkdir(parents=True)
    (image / "app/closed/x").touch()
    (image / "enclave.toml").write_text(MANIFEST + 'source = "app"\n')
    (image / "app/closed").chmod(0)
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] if os.getuid() == 0 else []
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("root can read everything, and there is no setpriv")
    environment = {**os.environ, "NITROKIT_BLOBS": str(image.parent), "NITROKIT_CACHE": str(image.parent / "cache")}
    command = [*prefix, sys.executable, "-m", "nitrokit.cli", "build", str(image), "-o", str(image.parent / "x.eif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    (image / "app/closed").chmod(0o755)
    assert (done.returncode, "image/app-unreadable" in done.stderr) == (1, True), done.stderr


def test_what_editors_and_version_control_leave_behind_is_told(image, tmp_path):
    for name in (".git/config", ".git/HEAD", "opt/x~", "opt/.x.swp", "opt/x.gitignore", "opt/fine"):
        (image / "tree" / name).parent.mkdir(exist_ok=True)
        (image / "tree" / name).touch()
    told = json.loads(_nitrokit(image, "build", image, "-o", tmp_path / "x.eif", "--json").stdout)
    assert [one["where"] for one in told["findings"] if one["id"] == "left-behind"] == [".git", "opt/.x.swp", "opt/x~"]


def test_compressed_bytes_are_the_same_in_every_version_of_nitrokit():
    """PCR0 and PCR2 depend on them: whoever changes level, jobs or library moves the PCRs of every image with zstd, and says so in the change log."""
    words = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest().encode() for number in range(1000)]
    data = b" ".join(words[number * number % 997] for number in range(200_000))
    made = hashlib.sha256(b"".join(compressed((data[at : at + CHUNK] for at in range(0, len(data), CHUNK)), "zstd")))
    assert (len(data), made.hexdigest()) == (12999999, "d699e555d2fa75867f379d6b9859c8184688feef9c1431c94c30628099e77362")


def test_another_zstd_is_refused(monkeypatch):
    """Its bytes may differ: a distribution's module comes with the distribution's library."""
    zstandard = pytest.importorskip("zstandard")
    monkeypatch.setattr(zstandard, "ZSTD_VERSION", (1, 5, 6))
    with pytest.raises(CompressionProblem) as caught:
        list(compressed([b"x"], "zstd"))
    assert (caught.value.code, caught.value.got) == ("image/zstd", "1.5.6")
