"""The image among downloads that tear, hang, lie and fill the disk; and built on the parent from a registry."""

import hashlib
import os
import subprocess

import pytest
from fakeparent import AGENT, DOCKER, EIF, STEPS, changed_agent, configuration, image, kill_when_hanging, pcrs


@pytest.fixture
def parent(fake_parent):
    return fake_parent


def _images(parent):
    folder = parent.folder / "var/lib/nitrokit/hello/images"
    return {path.suffix: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


# The image


def test_a_download_that_was_killed_goes_on_where_it_was(parent):
    parent.up(steps=STEPS[:1])
    (parent.folder / "var/lib/nitrokit/hello/images").mkdir(parents=True)
    part = parent.folder / f"var/lib/nitrokit/hello/images/{hashlib.sha256(EIF).hexdigest()}.part"
    part.write_bytes(EIF[:40])
    parent.fault("aws", "hang")
    kill_when_hanging(parent, "image")
    assert _images(parent)[".part"] == EIF[:40]
    parent.fault("aws")
    assert parent.up(steps=["image"])["fetched"] is True
    assert any(f"bytes=40-{len(EIF) - 1}" in line for line in parent.log)
    assert _images(parent) == {".eif": EIF}


def test_what_was_fetched_before_and_is_wrong_is_fetched_anew(parent):
    parent.up(steps=STEPS[:1])
    (parent.folder / "var/lib/nitrokit/hello/images").mkdir(parents=True)
    (parent.folder / f"var/lib/nitrokit/hello/images/{hashlib.sha256(EIF).hexdigest()}.part").write_bytes(b"x" * 40)
    assert parent.up(steps=["image"])["fetched"] is True
    assert _images(parent) == {".eif": EIF}


def test_a_slow_s3_is_waited_for_and_a_torn_part_is_asked_for_again(parent):
    parent.fault("aws", "slow")
    parent.up(steps=STEPS[:2])
    assert _images(parent) == {".eif": EIF}


@pytest.mark.parametrize(
    ("fault", "code", "asked"), [("torn", "agent/image", 4), ("fail", "agent/image-denied", 0), ("denied", "agent/image-denied", 4)]
)
def test_a_torn_or_refused_download_leaves_nothing(parent, fault, code, asked):
    parent.up(steps=STEPS[:1])
    parent.fault("aws", fault)
    refused = parent.step("image")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"[{code}]" in refused.stderr
    assert len([line for line in parent.log if "get-object" in line]) == asked
    assert ".eif" not in _images(parent)
    assert ("kms:Decrypt on the key" in refused.stderr) == (code == "agent/image-denied")


def test_a_version_of_the_object_is_asked_for(parent):
    parent.up(configuration(image_version="v3.x_Y"), STEPS[:2])
    assert all("--version-id v3.x_Y" in line for line in parent.log if "s3api" in line)


def test_an_image_of_more_than_one_part_is_put_together_and_goes_on_after_a_kill(parent):
    data = EIF + os.urandom(1 << 20) * 65
    parent.put("big.eif", data)
    config = configuration(image_uri="s3://bucket/big.eif", image_sha256=hashlib.sha256(data).hexdigest())
    parent.up(config, STEPS[:2])
    assert _images(parent) == {".eif": data}
    asked = [line.partition("bytes=")[2].split()[0] for line in parent.log if "bytes=" in line]
    assert asked == [f"0-{(64 << 20) - 1}", f"{64 << 20}-{len(data) - 1}"]


def test_a_former_part_that_is_longer_than_the_image_is_fetched_anew(parent):
    parent.up(steps=STEPS[:1])
    folder = parent.folder / "var/lib/nitrokit/hello/images"
    folder.mkdir(parents=True)
    (folder / f"{hashlib.sha256(EIF).hexdigest()}.part").write_bytes(EIF + b"x")
    assert parent.up(steps=["image"])["fetched"] is True
    assert _images(parent) == {".eif": EIF}


@pytest.mark.parametrize(("answer", "code"), [("", "agent/image"), ("{}", "agent/image"), ('{"ContentLength": null}', "agent/image")])
def test_an_s3_that_does_not_tell_the_size_is_told(parent, answer, code):
    parent.up(steps=STEPS[:1])
    parent.program("aws", f"#!/bin/sh\necho '{answer}'\n")
    refused = parent.step("image")
    assert (refused.returncode, f"does not tell the image's size [{code}]" in refused.stderr) == (1, True), refused.stderr


def test_a_disk_that_fills_under_the_aws_command_is_told_at_once_and_nothing_is_left(parent):
    parent.up(steps=STEPS[:1])
    folder = parent.folder / "var/lib/nitrokit/hello/images"
    folder.mkdir(parents=True)
    (folder / f"{hashlib.sha256(EIF).hexdigest()}.part").write_bytes(EIF[:40])
    full = 'case "$*" in *get-object*) echo "aws $*" >> /var/fake/log; for last; do :; done; echo half > "$last"; echo \'[Errno 28] No space left on device\' >&2; exit 255 ;; esac\n'
    fake = (parent.folder / "bin/aws").read_text()
    parent.program("aws", fake.replace("#!/bin/sh\n", f"#!/bin/sh\n{full}", 1))
    refused = parent.step("image")
    assert (refused.returncode, "[agent/disk-full]" in refused.stderr) == (1, True), refused.stderr
    assert len([line for line in parent.log if "get-object" in line]) == 1
    assert _images(parent) == {}, "others on the parent need the room more"


def test_images_that_nothing_names_any_more_go_with_what_is_left_of_them_and_others_stay(parent):
    parent.up(steps=STEPS[:2])
    state = parent.folder / "var/lib/nitrokit/hello"
    digest = lambda mark: hashlib.sha256(image(mark)).hexdigest()  # noqa: E731
    for name in (
        f"{digest('cc')}.eif",
        f"{digest('cc')}.part",
        f"{digest('cc')}.chunk",
        f"{digest('aa')}.eif",
        f"{'bb' * 48}.eif",
        "notes.txt",
    ):
        (state / "images" / name).write_text("")
    (state / "good.json").write_text(configuration("aa"))
    (state / "current.json").write_text(configuration("bb", docker_uri=DOCKER, image_uri="", image_sha256=""))
    parent.up(steps=["image"])
    left = {f"{digest('00')}.eif", f"{digest('aa')}.eif", f"{'bb' * 48}.eif", "notes.txt"}
    assert {path.name for path in (state / "images").iterdir()} == left


@pytest.mark.parametrize("where", ["before", "during"])
def test_a_full_disk_is_told_and_leaves_nothing(parent, where):
    """A real file system without room: a tmpfs of a megabyte."""
    size = 900_000 if where == "during" else 300_000_000
    parent.put("big.eif", EIF + b"\0" * size)
    digest = hashlib.sha256(EIF + b"\0" * size).hexdigest()
    config = configuration(image_uri="s3://bucket/big.eif", image_sha256=digest)
    mount = "mount -t tmpfs -o size=1m none /var/lib && "
    script = f"{mount}{AGENT} install --enclave hello && {AGENT} image --enclave hello; code=$?; ls -R /var/lib; exit $code"
    patched = parent.folder / "opt/nitrokit/agent.pyz"
    if where == "during":
        # The check before the download is passed: somebody else fills the disk meanwhile.
        patched.write_bytes(changed_agent(patched.read_bytes(), "host/images.py", b"shutil.disk_usage(part.parent).free", b"1 << 40"))
    sandbox = [*parent.sandbox(), "--cap-add", "CAP_SYS_ADMIN", "/bin/sh", "-c", script]
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(sandbox, env={**parent.environment(), "SSM_Config": config}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "[agent/disk-full]" in done.stderr
    assert "larger volume" in done.stderr
    assert ".eif" not in done.stdout


def test_a_good_image_is_not_replaced_by_a_torn_one(parent):
    parent.up(steps=STEPS[:2])
    parent.fault("aws", "torn")
    assert parent.up(steps=["image"])["fetched"] is False
    assert parent.steps(configuration(image_sha256="0" * 64), STEPS[:2]).returncode == 1
    assert _images(parent)[".eif"] == EIF


def test_an_image_that_rotted_is_fetched_again(parent):
    parent.up(steps=STEPS[:2])
    path = next((parent.folder / "var/lib/nitrokit/hello/images").iterdir())
    path.write_bytes(EIF[:-1])
    assert parent.up(steps=["image"])["fetched"] is True
    assert path.read_bytes() == EIF


# An image that the parent builds


def test_an_image_of_ecr_is_built_and_stands_by_the_lock(parent):
    parent.program("docker", '#!/bin/sh\necho "docker $* $(cat)" >> /var/fake/log\nls -d "$HOME" >> /var/fake/log\n')
    parent.program("aws", '#!/bin/sh\necho "aws $*" >> /var/fake/log\necho pass-word\n')
    cli = (parent.folder / "bin/nitro-cli").read_text()
    build = 'case "$1" in\n  build-enclave) [ -d "$NITRO_CLI_ARTIFACTS" ] || exit 51; printf %s "$BUILT" > "$5"; exit 0 ;;'
    parent.program("nitro-cli", cli.replace('case "$1" in\n', build + "\n", 1))
    config = configuration(docker_uri=DOCKER, image_uri="", image_sha256="")
    for step in STEPS[:3]:
        done = parent.step(step, config, BUILT=EIF.decode())
        assert done.returncode == 0, done.stderr
    assert not [line for line in parent.log if "pass-word" in line and "--password-stdin" not in line.partition("pass-word")[0]]
    assert f"docker pull --quiet {DOCKER} " in parent.log
    assert not list((parent.folder / "run/nitrokit").iterdir())
    drifted = configuration(docker_uri=DOCKER, image_uri="", image_sha256="", measurements=pcrs("cc"))
    parent.step("install", drifted)
    parent.step("image", drifted, BUILT=EIF.decode())
    refused = parent.step("verify", drifted)
    assert "[agent/drift]" in refused.stderr
