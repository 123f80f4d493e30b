"""The Lambdas' assets: what each ships is what it imports, for both architectures, without Docker."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import pytest

import nitrokit
from nitrokit.cdk import bundling
from nitrokit.cdk.bundling import BundlingError, bundle, lambda_folder
from nitrokit.cdk.closures import CLOSURES
from nitrokit.errors import UsageError

ROOT = Path(__file__).parents[3]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINE = os.uname().machine.replace("aarch64", "arm64")
# What the handler imports, by the file that it was loaded from; what the runtime brings is not ours.
_IMPORTS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import index
print(json.dumps(sorted(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None))))
"""
# Beside the standard library (AWS Lambda Developer Guide "Runtime-included SDK versions").
RUNTIME = ("boto3", "botocore", "jmespath", "s3transfer", "urllib3", "dateutil", "six.py")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A folder with what the Lambda runtime brings, and nothing else of this environment."""
    folder = tmp_path_factory.mktemp("runtime")
    site = Path(boto3.__file__).parents[1]
    for name in RUNTIME:
        (folder / name).symlink_to(site / name)
    return folder


def _loaded(folder, runtime):
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", _IMPORTS, str(folder)], cwd="/", capture_output=True, text=True, check=False,
        env={"AWS_DEFAULT_REGION": "us-east-1", "PATH": os.environ["PATH"], "PYTHONPATH": str(runtime), "LAMBDA_TASK_ROOT": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Path(name) for name in json.loads(done.stdout)]


@pytest.mark.parametrize("name", CLOSURES)
def test_an_asset_ships_what_its_handler_imports_and_nothing_else_of_ours(name, runtime, tmp_path):
    asset, folder = bundle(name, python=HERE, architecture=MACHINE), tmp_path / "task"
    assert asset == bundle(name, python=HERE, architecture=MACHINE)
    shutil.unpack_archive(asset, folder)
    loaded = _loaded(folder, runtime)
    ours = {str(path.relative_to(folder / "nitrokit")) for path in loaded if path.is_relative_to(folder / "nitrokit")}
    shipped = {str(path.relative_to(folder / "nitrokit")) for path in (folder / "nitrokit").rglob("*") if path.is_file()}
    assert shipped == set(CLOSURES[name].modules)
    assert ours == {module for module in shipped if module.endswith(".py")}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 26 << 20


@pytest.mark.parametrize("name", CLOSURES)
def test_arm64_assets_are_made_on_any_machine(name):
    with zipfile.ZipFile(bundle(name, python="3.13", architecture="arm64")) as archive:
        files = archive.namelist()
    assert not fnmatch.filter(files, "*x86_64*.so")
    assert not fnmatch.filter(files, "*.dist-info/*")
    if "cbor2" in CLOSURES[name].distributions:
        assert fnmatch.filter(files, "*aarch64*.so")


def test_an_asset_made_again_has_the_same_bytes_and_can_be_read_by_every_user(tmp_path, monkeypatch):
    first = bundle("key_canary", python=HERE, architecture=MACHINE)
    cache = tmp_path / "cache/lambda"
    cache.mkdir(parents=True)
    for wheels in first.parent.glob("wheels-*"):
        (cache / wheels.name).symlink_to(wheels)
    monkeypatch.setenv("NITROKIT_CACHE", str(tmp_path / "cache"))
    previous = os.umask(0o077)
    try:
        again = bundle("key_canary", python=HERE, architecture=MACHINE)
    finally:
        os.umask(previous)
    assert again != first
    assert again.read_bytes() == first.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}


@pytest.mark.parametrize("name", CLOSURES)
def test_a_shim_is_a_shim(name):
    assert len((lambda_folder(name) / "index.py").read_text().splitlines()) < 15


def test_a_wheel_with_another_hash_and_a_missing_installation_are_clear_errors(tmp_path, monkeypatch):
    folder = tmp_path / "lambda"
    shutil.copytree(lambda_folder("check_enclaves").parent, folder)
    (folder / "requirements.txt").write_text("cbor2==6.3.0 --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(bundling, "lambda_folder", lambda name: folder / name)
    monkeypatch.setenv("NITROKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BundlingError) as caught:
        bundle("check_enclaves", python="3.13", architecture="x86_64")
    assert caught.value.code == "bundling/wheels"
    assert list((tmp_path / "cache/lambda").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(nitrokit, "__file__", str(tmp_path / "a/b/c/__init__.py"))
    with pytest.raises(BundlingError) as caught:
        lambda_folder("check_enclaves")
    assert caught.value.code == "bundling/no-shim"


def test_another_runtime_is_refused():
    with pytest.raises(UsageError, match="python3"):
        bundle("check_enclaves", python="nodejs22.x", architecture="x86_64")
