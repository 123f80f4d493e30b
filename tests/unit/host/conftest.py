import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from emulatedparent import hello_configuration, make_emulated, make_hello
from fakeparent import FakeParent, short_folder
from realsystemd import unavailable


@pytest.fixture
def make_parent():
    """Makes parents: each call another one."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    made: list[FakeParent] = []

    def make(*, booted):
        if booted and (reason := unavailable()):
            pytest.skip(reason)
        made.append(FakeParent(short_folder(f"f{len(made)}")))
        if booted:
            made[-1].boot()
        return made[-1]

    yield make
    for parent in made:
        parent.close()
        shutil.rmtree(parent.folder)


@pytest.fixture
def fake_parent(make_parent):
    return make_parent(booted=False)


@pytest.fixture
def booted_parent(make_parent):
    """With a systemd that runs."""
    return make_parent(booted=True)


@pytest.fixture(scope="session")
def eif(tmp_path_factory):
    """The hello image with a kernel of a few bytes: the process runner needs none."""
    return make_hello(tmp_path_factory.mktemp("image"))


@pytest.fixture
def emulated_parent(pki):
    """An emulated instance and its folder."""
    folder = short_folder("t")
    instance = make_emulated(folder, pki)
    yield instance, folder
    instance.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def put_image(emulated_parent, eif):
    """The configuration of hello, which lies in S3."""
    shutil.copy(eif, emulated_parent[1] / "opt/s3/hello.eif")
    return hello_configuration(eif)
