"""A Dockerfile, built by the real buildah: two stages, a program that runs, arguments, and what Docker would call the configuration. From scratch: no registry is asked."""

import shutil
from pathlib import Path

import pytest

from nitrokit.core.eif import read_eif
from nitrokit.image import cpio
from nitrokit.image.build import build_image
from nitrokit.image.errors import FetchError
from nitrokit.image.kernel import find_kernel

DOCKERFILE = """FROM scratch AS build
COPY pcrs /opt/pcrs
RUN ["/opt/pcrs", "at build time"]
FROM scratch
ARG NAME=x
COPY --from=build /opt/pcrs /opt/pcrs
ENV A=$NAME
WORKDIR /opt
USER 7
ENTRYPOINT ["./pcrs", "one"]
CMD ["two"]
"""


@pytest.fixture
def image(programs, tmp_path, monkeypatch):
    if shutil.which("buildah") is None:
        pytest.skip("no buildah here")
    options = f"--root {tmp_path}/storage --runroot {tmp_path}/run --storage-driver vfs"
    monkeypatch.setenv("NITROKIT_CONTAINER_BUILDER", "buildah")
    monkeypatch.setenv("NITROKIT_CONTAINER_BUILDER_OPTIONS", options)
    folder = tmp_path / "image"
    folder.mkdir()
    shutil.copy(programs / "pcrs", folder)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "enclave.toml").write_text('[enclave]\nname = "x"\ninit = "aws"\n[dockerfile]\narguments = {NAME = "from enclave.toml"}\n')
    for name in ("bzImage", "init"):
        (tmp_path / name).write_bytes(b"x")
    return folder


def _build(image, output):
    kernel = find_kernel({"NITROKIT_BLOBS": str(image.parent)}, image.parent, print)
    return build_image(image, kernel=kernel, output=output, cache=image.parent / "cache", progress=lambda _: None)


def test_buildah_builds_it_and_the_same_bytes_again(image, tmp_path):
    try:
        built = _build(image, tmp_path / "1.eif")
    except FetchError as error:
        if "operation not permitted" in str(error).lower():
            pytest.skip(f"buildah may not build here: {error.got}")
        raise
    tree = dict(cpio.read(read_eif((tmp_path / "1.eif").read_bytes()).read(read_eif((tmp_path / "1.eif").read_bytes()).ramdisks[1])))
    assert tree["cmd"].data == b"/opt/pcrs\none\ntwo\n"
    assert b"A=from enclave.toml" in tree["env"].data.splitlines()
    assert tree["rootfs/opt/pcrs"].data == Path(image / "pcrs").read_bytes()
    assert {finding.id for finding in built.findings} == {"relative-command", "root", "source"}
    (image / "pcrs").touch()
    _build(image, tmp_path / "2.eif")
    assert (tmp_path / "1.eif").read_bytes() == (tmp_path / "2.eif").read_bytes()


def test_a_dockerfile_that_does_not_build_says_what_buildah_said(image, tmp_path):
    (image / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    with pytest.raises(FetchError) as caught:
        _build(image, tmp_path / "1.eif")
    assert (caught.value.code, "missing" in str(caught.value.got)) == ("fetch/build", True)
    assert not (tmp_path / "1.eif").exists()
